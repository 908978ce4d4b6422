import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stimage.modules import Temperature, info_nce


def written_out(queries, keys, temperature, groups, symmetric):
    """The loss, one row after the other."""
    n_rows = len(queries)
    queries = [vector / vector.square().sum().sqrt() for vector in queries]
    keys = [vector / vector.square().sum().sqrt() for vector in keys]
    total = 0.0
    for anchors, others in [(queries, keys), (keys, queries)][: 2 if symmetric else 1]:
        for i in range(n_rows):
            allowed = [j for j in range(n_rows) if groups is None or groups[j] == groups[i]]
            terms = [((anchors[i] * others[j]).sum() / temperature).exp() for j in allowed]
            total = total - (terms[allowed.index(i)] / sum(terms)).log()
    return total / (n_rows * (2 if symmetric else 1))


@st.composite
def pairs(draw):
    n_rows, dim = draw(st.integers(1, 7)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    vectors = torch.randn(2, n_rows, dim, generator=generator, dtype=torch.float64)
    groups = torch.tensor(draw(st.lists(st.integers(0, 3), min_size=n_rows, max_size=n_rows)))
    return *vectors, draw(st.sampled_from([None, groups]))


@given(pairs(), st.floats(0.05, 2.0), st.booleans())
@settings(max_examples=60, deadline=None)
def test_loss_and_gradients_are_those_of_the_formula(pairs, temperature, symmetric):
    queries, keys, groups = pairs
    inputs = [queries.requires_grad_(), keys.requires_grad_(), torch.tensor(temperature, dtype=torch.float64)]
    inputs[2].requires_grad_()
    loss = info_nce(inputs[0], inputs[1], temperature=inputs[2], groups=groups, symmetric=symmetric)
    expected = written_out(*inputs, groups, symmetric)
    torch.testing.assert_close(loss, expected)
    for gradient, other in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(gradient, other)


@given(pairs(), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_order_and_length_of_vectors_do_not_matter(pairs, random):
    queries, keys, groups = pairs
    loss = info_nce(queries, keys, temperature=0.2, groups=groups)
    assert loss >= 0
    order = list(range(len(queries)))
    random.shuffle(order)
    scale = torch.tensor([random.uniform(0.1, 9) for _ in order], dtype=torch.float64).unsqueeze(1)
    moved = None if groups is None else groups[order]
    torch.testing.assert_close(info_nce((scale * queries)[order], keys[order], temperature=0.2, groups=moved), loss)
    torch.testing.assert_close(info_nce(keys, queries, temperature=0.2, groups=groups), loss)


@pytest.mark.parametrize("n_rows", [1, 2, 9])
def test_equal_vectors_are_told_apart_by_chance(n_rows):
    vectors = torch.ones(n_rows, 4)
    assert info_nce(vectors, vectors, temperature=0.1).item() == pytest.approx(math.log(n_rows), abs=1e-5)


def test_separated_pairs():
    vectors = torch.eye(6)
    assert info_nce(vectors, vectors, temperature=0.01) < 1e-6
    # One match at similarity 1 and five at 0.
    expected = math.log(math.exp(1 / 0.5) + 5) - 1 / 0.5
    assert info_nce(vectors, vectors, temperature=0.5).item() == pytest.approx(expected, rel=1e-5)
    # Wrong pairs: the match is at 0, another key at 1.
    wrong = info_nce(vectors, vectors.roll(1, 0), temperature=0.5)
    assert wrong.item() == pytest.approx(expected + 1 / 0.5, rel=1e-5)


def test_slides_do_not_mix():
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, 7, 3, generator=generator)
    groups = torch.tensor([4, 0, 4, 0, 4, 0, 0])
    parts = [info_nce(queries[groups == g], keys[groups == g], temperature=0.1) for g in (0, 4)]
    loss = info_nce(queries, keys, temperature=0.1, groups=groups)
    torch.testing.assert_close(loss, (4 * parts[0] + 3 * parts[1]) / 7)


def test_rows_without_negatives_cost_nothing():
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, 5, 3, generator=generator).unbind()
    queries.requires_grad_()
    assert info_nce(queries, keys, temperature=0.01, groups=torch.arange(5)) == 0
    info_nce(queries, keys, temperature=0.1, groups=torch.tensor([0, 0, 0, 0, 1])).backward()
    assert torch.isfinite(queries.grad).all()
    assert not queries.grad[4].any()
    assert queries.grad[:4].any(dim=1).all()


def test_mixed_precision_does_not_round_similarities():
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(32, 64, generator=generator)
    queries = keys + 0.1 * torch.randn(32, 64, generator=generator)
    exact = info_nce(queries, keys, temperature=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = info_nce(queries, keys, temperature=0.02)
    assert torch.equal(loss, exact)
    assert info_nce(queries.bfloat16(), keys.bfloat16(), temperature=0.02).dtype == torch.float32


@pytest.mark.parametrize(
    ("queries", "keys", "options", "match"),
    [
        (torch.ones(3, 2), torch.ones(4, 2), {}, "same shape"),
        (torch.ones(3, 2, 2), torch.ones(3, 2, 2), {}, "one vector per row"),
        (torch.ones(0, 2), torch.ones(0, 2), {}, "at least one row"),
        (torch.ones(3, 2), torch.ones(3, 2), {"groups": torch.zeros(2)}, "`groups`"),
        (torch.ones(3, 2), torch.ones(3, 2), {"temperature": 0.0}, "`temperature` must be positive"),
    ],
)
def test_bad_input(queries, keys, options, match):
    with pytest.raises(ValueError, match=match):
        info_nce(queries, keys, **{"temperature": 0.1, **options})


def test_fixed_temperature_has_nothing_to_learn():
    assert Temperature(0.07)().item() == pytest.approx(0.07)
    assert not list(Temperature().parameters())
    learned = Temperature(0.5, learned=True)
    learned.load_state_dict(Temperature(0.07).state_dict())
    assert learned().item() == pytest.approx(0.07)


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_learned_temperature_stays_within_bounds_and_comes_back(direction):
    temperature = Temperature(0.1, learned=True)
    optimizer = torch.optim.SGD(temperature.parameters(), lr=30.0)
    for _ in range(5):
        optimizer.zero_grad()
        (direction * temperature()).backward()
        optimizer.step()
    bound = 0.01 if direction > 0 else 1.0
    assert temperature().item() == pytest.approx(bound)
    optimizer.zero_grad()
    (-direction * temperature()).backward()
    optimizer.step()
    assert direction * (temperature().item() - bound) > 0.001
    with torch.inference_mode():
        assert 0.00999 < temperature().item() < 1.00001


@pytest.mark.parametrize("initial", [0.0, 0.001, 2.0, float("nan")])
def test_temperature_out_of_range(initial):
    with pytest.raises(ValueError, match="between 0.01 and 1"):
        Temperature(initial)
