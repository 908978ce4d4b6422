import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from stimage.models.alignment._expression_head import PENALTIES, ExpressionHead, _Moments, penalty_errors


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
    """Squared error of each penalty, each slide predicted by a regression on the others."""
    errors = []
    for penalty in PENALTIES:
        error = 0.0
        for held_out in range(len(inputs)):
            rest = [i for i in range(len(inputs)) if i != held_out]
            model, mean = ridge(
                np.concatenate([inputs[i] for i in rest]), np.concatenate([expression[i] for i in rest]), penalty
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


def test_slides_of_a_donor_are_left_out_together():
    inputs, expression = slides([20, 15, 25], noise=30)
    head = ExpressionHead.fit(inputs, expression, donors=["ann", "bob", "ann"])
    joined = [np.concatenate([part[0], part[2]]) for part in (inputs, expression)]
    errors = slow_errors([joined[0], inputs[1]], [joined[1], expression[1]])
    assert head.penalty == pytest.approx(PENALTIES[np.argmin(errors)])
    alone = ExpressionHead.fit(inputs, expression, donors=["ann"] * 3)
    assert alone.penalty == ExpressionHead.fit(inputs, expression).penalty


@pytest.mark.parametrize("penalty", [1e-3, 10.0])
def test_a_penalty_that_is_given(penalty):
    inputs, expression = slides([20, 15])
    assert ExpressionHead.fit(inputs, expression, penalty=penalty).penalty == pytest.approx(penalty)


def test_errors_on_slides_that_were_not_seen():
    inputs, expression = slides([30, 20, 15, 0], noise=10)
    pairs = list(zip(inputs, expression, strict=True))
    found = penalty_errors(pairs[:2], pairs[2:])
    for position, penalty in enumerate(PENALTIES):
        model, mean = ridge(np.concatenate(inputs[:2]), np.concatenate(expression[:2]), penalty)
        error = ((model.predict(inputs[2] - mean) - expression[2]) ** 2).sum()
        assert found[position] == pytest.approx(error, rel=1e-5)
    assert not penalty_errors(pairs, []).any()


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
    head = ExpressionHead.fit(*slides(sizes))
    assert np.isfinite(head(np.zeros((3, 6)))).all()


def test_inputs_that_do_not_vary_say_nothing():
    _, expression = slides([20, 30])
    head = ExpressionHead.fit([np.full((n, 2), 3.0, dtype=np.float32) for n in (20, 30)], expression)
    mean = np.concatenate(expression).mean(axis=0)
    np.testing.assert_allclose(head(np.full((4, 2), 3.0)), np.tile(mean, (4, 1)), rtol=1e-4)


def test_tensors_keep_every_digit():
    head = ExpressionHead.fit(*slides([40, 40]))
    tensors = head.tensors()
    assert {values.dtype for values in tensors.values()} == {np.dtype(np.float32)}
    again = ExpressionHead.from_tensors(tensors)
    new = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    np.testing.assert_array_equal(again(new), head(new))
    assert (again.penalty, again.shape) == (head.penalty, (6, 4))


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
