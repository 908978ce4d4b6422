import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stimage.benchmark import mean_predictor, neighbor_predictor, ridge_predictor

FORMS = {"dense": np.asarray, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix}
ALPHAS = np.logspace(-2, 6, 17)
GENES = np.array([1, 4, 5])


@pytest.fixture(params=[6, 60], ids=["few features", "more features than spots"])
def spots(request):
    """Expression, features of very different scales with one that is constant in training, groups, train, test."""
    rng = np.random.default_rng(request.param)
    features = rng.normal(size=(50, request.param)) * np.exp(rng.normal(size=request.param)) + 5
    expression = rng.gamma(1.0, 1.0, (50, 7)) * (rng.random((50, 7)) < 0.7)
    expression[:, :5] += np.maximum(features[:, :5] - 5, 0)
    order = rng.permutation(50)
    train, test = order[:36], order[36:]
    features[train, 2] = 0.3
    return expression, features, np.arange(50) % 4, train, test


@pytest.mark.parametrize("form", FORMS)
def test_mean(spots, form):
    expression, _, _, train, test = spots
    expected = [sum(expression[i][gene] for i in train) / len(train) for gene in GENES]
    np.testing.assert_allclose(mean_predictor(FORMS[form](expression))(train, test, GENES), [expected] * len(test))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("alpha", [1e-2, 3.0, 1e5])
def test_ridge_of_a_given_penalty(spots, form, alpha):
    expression, features, _, train, test = spots
    model = make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(features[train], expression[train][:, GENES])
    predict = ridge_predictor(FORMS[form](expression), features.astype(np.float32), alpha=alpha)
    np.testing.assert_allclose(predict(train, test, GENES), model.predict(features[test]), rtol=1e-3, atol=1e-4)
    predict = ridge_predictor(FORMS[form](expression), features, alpha=alpha)
    np.testing.assert_allclose(predict(train, test, GENES), model.predict(features[test]), rtol=1e-7)


def test_ridge_whose_penalty_is_chosen_by_leaving_groups_out(spots):
    expression, features, groups, train, test = spots
    targets = expression[train][:, GENES]
    errors = []
    for alpha in ALPHAS:
        error = 0.0
        for rest, out in LeaveOneGroupOut().split(features[train], targets, groups[train]):
            model = make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(features[train][rest], targets[rest])
            error += ((model.predict(features[train][out]) - targets[out]) ** 2).sum()
        errors.append(error)
    best = int(np.argmin(errors))
    assert 0 < best < len(ALPHAS) - 1  # a choice that a bound does not make
    model = make_pipeline(StandardScaler(), Ridge(alpha=ALPHAS[best])).fit(features[train], targets)
    names = np.array(["a", "b", "c", "d"])[groups]
    prediction = ridge_predictor(expression, features, groups=names)(train, test, GENES)
    np.testing.assert_allclose(prediction, model.predict(features[test]), rtol=1e-7)


@pytest.mark.parametrize("groups", [None, np.repeat("one", 50)], ids=["no groups", "one group"])
def test_ridge_whose_penalty_is_chosen_by_leaving_spots_out(spots, groups):
    expression, features, _, train, test = spots
    targets = expression[train][:, GENES]
    scaler = StandardScaler().fit(features[train])
    model = RidgeCV(ALPHAS).fit(scaler.transform(features[train]), targets)
    assert ALPHAS[0] < model.alpha_ < ALPHAS[-1]
    prediction = ridge_predictor(expression, features, groups=groups)(train, test, GENES)
    np.testing.assert_allclose(prediction, model.predict(scaler.transform(features[test])), rtol=1e-7)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n_neighbors", [1, 5, 1000])
def test_neighbors(spots, form, n_neighbors):
    expression, features, _, train, test = spots
    features = features - 5
    features[test[0]] = 0  # cosine 0 with all
    prediction = neighbor_predictor(FORMS[form](expression), features, n_neighbors=n_neighbors)(train, test, GENES)
    for row, i in list(zip(prediction, test, strict=True))[1:]:
        similarity = {
            j: features[i] @ features[j] / np.linalg.norm(features[i]) / np.linalg.norm(features[j]) for j in train
        }
        nearest = sorted(train, key=lambda j: -similarity[j])[:n_neighbors]
        np.testing.assert_allclose(row, np.mean([expression[j][GENES] for j in nearest], axis=0))
    assert np.isfinite(prediction[0]).all()


FACTORIES = {
    "mean": lambda expression, features, groups: mean_predictor(expression),
    "ridge": lambda expression, features, groups: ridge_predictor(expression, features, groups=groups),
    "ridge without groups": lambda expression, features, groups: ridge_predictor(expression, features),
    "ridge of a given penalty": lambda expression, features, groups: ridge_predictor(expression, features, alpha=1.0),
    "neighbors": lambda expression, features, groups: neighbor_predictor(expression, features, n_neighbors=4),
}


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_expression_of_test_spots_is_not_read(spots, factory):
    expression, features, groups, train, test = spots
    before = factory(expression, features, groups)(train, test, GENES)
    assert np.isfinite(before).all()
    poisoned = expression.copy()
    poisoned[test] = np.nan
    np.testing.assert_array_equal(factory(poisoned, features, groups)(train, test, GENES), before)


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_a_test_spot_is_predicted_without_the_others(spots, factory):
    """No standardisation, no choice is made on the images of test spots either."""
    expression, features, groups, train, test = spots
    predict = factory(expression, features, groups)
    np.testing.assert_allclose(predict(train, test[3:4], GENES), predict(train, test, GENES)[3:4], rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda e, x: ridge_predictor(e, x[:4]), ValueError, r"`features` has shape \(4, 2\), 5 rows"),
        (lambda e, x: ridge_predictor(e, x * np.inf), ValueError, "`features` has NaN or infinite values for 5 spots"),
        (lambda e, x: ridge_predictor(e, x, alpha=0), ValueError, "`alpha` must be between 0 and inf"),
        (lambda e, x: ridge_predictor(e, x, alpha="gcv"), TypeError, "`alpha` must be a number"),
        (lambda e, x: ridge_predictor(e, x, groups=["a"]), ValueError, "`groups` has shape"),
        (lambda e, x: neighbor_predictor(e, x[:, 0]), ValueError, "`features` has shape"),
        (lambda e, x: neighbor_predictor(e, x, n_neighbors=0), ValueError, "`n_neighbors` must be at least 1"),
        (lambda e, x: mean_predictor(sparse.coo_matrix(e)), TypeError, r"in coo form: convert it with `.tocsr\(\)`"),
        (lambda e, x: mean_predictor(e.tolist()), TypeError, "`expression` must be a matrix"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(np.ones((5, 3)), np.ones((5, 2)))
