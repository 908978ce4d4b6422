import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import linregress, sem
from sklearn.linear_model import Ridge

from stimage.models.alignment._expression_head import MOST_FOLDS, PENALTIES, ExpressionHead, _Moments, groups_of


def slides(sizes, *, n_inputs=6, n_genes=4, noise=1.0, seed=0):
    """Expression that follows from inputs but for noise, with another mean in every slide."""
    rng = np.random.default_rng(seed)
    inputs = [(rng.normal(size=(n, n_inputs)) * np.arange(1, n_inputs + 1) + 5).astype(np.float32) for n in sizes]
    weights = rng.normal(size=(n_inputs, n_genes))
    expression = [
        part @ weights + noise * rng.normal(size=(len(part), n_genes)) + rng.normal(size=n_genes) for part in inputs
    ]
    return inputs, [part.astype(np.float32) for part in expression]


def ridge(x, y, penalty):
    """The penalty is in mean variances of an input, so that neither their scale nor the number of spots matter."""
    x = x.astype(np.float64)
    return Ridge(alpha=penalty * x.var(axis=0).mean() * len(x)).fit(x - x.mean(axis=0), y), x.mean(axis=0)


def slow_errors(inputs, expression):
    """Squared error of each penalty, each slide predicted by a regression on the others, as strongly for all its spots."""
    n_spots = sum(map(len, inputs))
    errors = []
    for penalty in PENALTIES:
        error = 0.0
        for held_out in range(len(inputs)):
            rest = [i for i in range(len(inputs)) if i != held_out]
            model, mean = ridge(
                np.concatenate([inputs[i] for i in rest]),
                np.concatenate([expression[i] for i in rest]),
                penalty * n_spots / sum(len(inputs[i]) for i in rest),
            )
            error += ((model.predict(inputs[held_out] - mean) - expression[held_out]) ** 2).sum()
        errors.append(error)
    return np.array(errors)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), noise=st.floats(0.1, 300), sizes=st.lists(st.integers(8, 30), min_size=2, max_size=4))
def test_the_penalty_that_predicts_slides_left_out_best(seed, noise, sizes):
    inputs, expression = slides(sizes, noise=noise, seed=seed)
    head = ExpressionHead.fit(inputs, expression)
    errors = slow_errors(inputs, expression)
    chosen = int(np.argmin(np.abs(PENALTIES - head.penalty)))
    assert errors[chosen] <= errors.min() * (1 + 1e-6)
    x, y = np.concatenate(inputs), np.concatenate(expression)
    model, mean = ridge(x, y, PENALTIES[chosen])
    new = np.random.default_rng(1).normal(size=(5, x.shape[1]))
    np.testing.assert_allclose(head(new), model.predict(new - mean), rtol=1e-3, atol=1e-3 * np.abs(y).max())


def test_noise_asks_for_a_larger_penalty():
    chosen = [ExpressionHead.fit(*slides([40, 40, 40], noise=noise)).penalty for noise in (0.01, 30, 3000)]
    assert chosen[0] < chosen[1] < chosen[2]
    assert chosen[0] == pytest.approx(PENALTIES[0])


@pytest.mark.parametrize("penalty", [1e-3, 1.0, 30.0])
def test_equals_ridge_of_scikit_learn(penalty):
    inputs, expression = slides([50], noise=3)
    head = _Moments.of(inputs[0], expression[0]).solve(penalty)
    model, mean = ridge(inputs[0], expression[0], penalty)
    np.testing.assert_allclose(head.weights, model.coef_.T, rtol=1e-6)
    np.testing.assert_allclose(head.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(head.intercept, expression[0].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(head(inputs[0]), model.predict(inputs[0] - mean), rtol=1e-4, atol=1e-4)
    assert head(inputs[0]).dtype == np.float32


def slow_slope(inputs, expression, folds, penalty):
    """Mean less standard error over donors of the slope of measured on predicted values within their slides."""
    n_spots, slopes = sum(map(len, inputs)), []
    for fold in folds:
        x, y = (np.concatenate([part[i] for i in range(len(part)) if i not in fold]) for part in (inputs, expression))
        model, mean = ridge(x, y, penalty * n_spots / len(x))
        predicted, measured = [], []
        for i in fold:
            found = model.predict(inputs[i] - mean)
            predicted.append((found - found.mean(axis=0)).ravel())
            measured.append((expression[i] - expression[i].mean(axis=0)).ravel())
        slopes.append(linregress(np.concatenate(predicted), np.concatenate(measured)).slope)
    return min(max(np.mean(slopes) - sem(slopes), 0), 1)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), noise=st.floats(1, 100))
def test_shrunk_as_donors_ask_for_that_were_left_out(seed, noise):
    inputs, expression = slides([20, 15, 25, 18], noise=noise, seed=seed)
    head = ExpressionHead.fit(inputs, expression, donors=["ann", "bob", "ann", "cleo"])
    expected = slow_slope(inputs, expression, [[0, 2], [1], [3]], head.penalty)
    assert head.slope == pytest.approx(expected, rel=1e-4, abs=1e-5)
    plain = ExpressionHead.fit(inputs, expression)
    assert (plain.slope, plain.penalty) == (1, head.penalty)
    new = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    shrunk = plain.intercept + head.slope * (plain(new) - plain.intercept)
    np.testing.assert_allclose(head(new), shrunk, rtol=1e-4, atol=1e-4 * np.abs(shrunk).max())


def test_slides_of_a_single_donor_count_as_donors():
    inputs, expression = slides([20, 15, 25], noise=30)
    head = ExpressionHead.fit(inputs, expression, donors=["ann"] * 3)
    assert head.slope == pytest.approx(slow_slope(inputs, expression, [[0], [1], [2]], head.penalty), rel=1e-4)


def test_what_does_not_hold_in_another_donor_is_not_predicted():
    """In one donor expression rises with the inputs, in the other it falls."""
    inputs, expression = slides([40, 40, 40, 40], noise=0.1)
    against = [*expression[:2], *(-part for part in expression[2:])]
    donors = ["ann", "ann", "bob", "bob"]
    new = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    assert ExpressionHead.fit(inputs, expression, donors=donors).slope > 0.9
    head = ExpressionHead.fit(inputs, against, donors=donors)
    assert head.slope == 0
    np.testing.assert_allclose(head(new), np.tile(np.concatenate(against).mean(axis=0), (5, 1)), rtol=1e-3, atol=1e-3)


@given(st.lists(st.tuples(st.sampled_from("abcdefghijklmno"), st.integers(1, 50)), min_size=1, max_size=30))
def test_groups_hold_whole_donors(parts):
    names, sizes = zip(*parts, strict=True)
    groups = groups_of(names, sizes)
    assert len({*zip(names, groups, strict=True)}) == len(set(names))
    assert set(groups) == set(range(min(MOST_FOLDS, len(set(names)))))
    filled = [sum(size for size, group in zip(sizes, groups, strict=True) if group == number) for number in set(groups)]
    largest = max(sum(size for other, size in parts if other == name) for name in names)
    assert max(filled) <= min(filled) + largest


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(1, 20), penalty=st.sampled_from([1e-3, 0.1, 100.0]))
def test_squared_error_from_moments(seed, n, penalty):
    (train, test), (train_expression, test_expression) = slides([30, n], seed=seed)
    head = _Moments.of(train, train_expression).solve(penalty)
    found = head.squared_error(_Moments.of(test, test_expression))
    predicted = (test - head.mean) @ head.weights + head.intercept
    assert found == pytest.approx(((predicted - test_expression) ** 2).sum(), rel=1e-6, abs=1e-6)


def test_moments_add_and_subtract():
    inputs, expression = slides([10, 7])
    first, second = (_Moments.of(x, y) for x, y in zip(inputs, expression, strict=True))
    both = _Moments.of(np.concatenate(inputs), np.concatenate(expression))
    for found, expected in ((first + second, both), (both - first, second)):
        for name in both.__dataclass_fields__:
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("without_spots", [0, 1])
def test_a_single_slide_chooses_on_its_quarters(without_spots):
    (inputs,), (expression,) = slides([43], noise=30)
    head = ExpressionHead.fit([inputs] + without_spots * [inputs[:0]], [expression] + without_spots * [expression[:0]])
    quarters = np.array_split(np.arange(43), 4)
    errors = slow_errors([inputs[part] for part in quarters], [expression[part] for part in quarters])
    assert head.penalty == pytest.approx(PENALTIES[np.argmin(errors)])
    model, mean = ridge(inputs, expression, PENALTIES[np.argmin(errors)])
    np.testing.assert_allclose(head(inputs), model.predict(inputs - mean), rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("sizes", [[1], [2], [3], [5, 0], [0, 4, 1]])
def test_few_spots(sizes):
    inputs, expression = slides(sizes)
    head = ExpressionHead.fit(inputs, expression, donors=["ann", "bob"][: len(sizes)] if len(sizes) < 3 else None)
    assert np.isfinite(head(np.zeros((3, 6)))).all()


def test_inputs_that_do_not_vary_say_nothing():
    _, expression = slides([20, 30])
    head = ExpressionHead.fit([np.full((n, 2), 3.0, dtype=np.float32) for n in (20, 30)], expression)
    mean = np.concatenate(expression).mean(axis=0)
    np.testing.assert_allclose(head(np.full((4, 2), 3.0)), np.tile(mean, (4, 1)), rtol=1e-4)


def test_tensors_keep_every_digit():
    head = ExpressionHead.fit(*slides([40, 40], noise=30), donors=["ann", "bob"])
    tensors = head.tensors()
    assert {values.dtype for values in tensors.values()} == {np.dtype(np.float32)}
    again = ExpressionHead.from_tensors(tensors)
    new = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    np.testing.assert_array_equal(again(new), head(new))
    assert (again.penalty, again.slope, again.shape) == (head.penalty, head.slope, (6, 4))


@pytest.mark.parametrize(
    "change",
    [
        {"mean": np.zeros(5)},
        {"intercept": np.zeros(3)},
        {"weights": np.zeros((6, 4, 1))},
        {"weights": np.zeros(6), "intercept": np.zeros(())},
    ],
)
def test_parts_that_do_not_fit_have_no_shape(change):
    assert ExpressionHead.from_tensors({**ExpressionHead.fit(*slides([9, 9])).tensors(), **change}).shape == (0, 0)


def test_spots_of_the_fit(monkeypatch):
    from stimage.models.alignment import _prediction

    measured = [np.arange(40) % 4 > 0, np.zeros(5, dtype=bool), np.ones(70, dtype=bool)]
    for spots, of_slide in zip(_prediction.head_spots(measured), measured, strict=True):
        np.testing.assert_array_equal(spots, np.flatnonzero(of_slide))
    monkeypatch.setattr(_prediction, "MOST_SPOTS", 30)
    some = _prediction.head_spots(measured)
    assert sum(map(len, some)) == 30 and len(some[0]) > 0 and len(some[1]) == 0
    for spots, of_slide in zip(some, measured, strict=True):
        assert of_slide[spots].all() and (np.diff(spots) > 0).all()
