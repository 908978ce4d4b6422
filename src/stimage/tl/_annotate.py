from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stimage import _keys, _validate
from stimage._labels import label_categories
from stimage.models._annotation import HEADS, N_COMPONENTS, Head, label_probabilities

if TYPE_CHECKING:
    from anndata import AnnData


def annotate(
    adata: AnnData,
    label_key: str,
    *,
    use_rep: str = _keys.REPRESENTATION,
    reference: AnnData | None = None,
    head: Head = "logistic",
    n_components: int = N_COMPONENTS,
    key_added: str = _keys.ANNOTATION,
    copy: bool = False,
) -> AnnData | None:
    """Complete labels that only some observations have.

    A classifier learns the labels from the embedding of the labelled observations and is applied to all others: the rest of a
    slide, other slides of the same AnnData, or, with ``reference``, those of another one. It can only assign labels
    that occur in the annotation: an annotated area should cross every domain that is to be found.

    Parameters
    ----------
    adata
        AnnData with an embedding.
    label_key
        Column of ``obs`` with labels, missing (``None`` or NaN) where there is none. Labels equal as text are one; those that
        read ``"nan"``, ``"NA"`` or are empty count as missing, with a warning.
    use_rep
        Key in ``obsm`` of the embedding.
    reference
        Another AnnData with labels and an embedding by the same model under the same keys. ``adata`` then needs no
        labels; any that it has are used as well.
    head
        ``"logistic"``: multinomial logistic regression, whose probabilities are better calibrated; ``"knn"``:
        vote of the 15 nearest labelled observations.
    n_components
        Principal components of the embedding that the classifier uses.
    key_added
        Key of the results.
    copy
        Return a copy instead of writing to ``adata``.

    Returns
    -------
    AnnData or None
        With ``copy=True`` the copy. Writes:

    ``obs["stimage_annotation"]``
        Categorical: the observation's own label, or the likeliest one. Categories are those of the labels as text, followed
        by those that only ``reference`` has.
    ``obsm["stimage_annotation_probability"]``
        Probability of each category (observations x categories, float32), 1 at the observation's own label.
    ``uns["stimage_annotation"]``
        ``params``, with the numbers of labelled observations.

    Raises
    ------
    KeyError
        If the embedding or the labels are missing.
    ValueError
        If fewer than two labels occur, the embedding has NaN, or those of ``adata`` and ``reference`` are of different models.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> adata.obs["known"] = adata.obs["domain"].where(adata.obs["array_row"] < 10)
    >>> sti.tl.annotate(adata, "known", use_rep="spatial", head="knn")
    >>> adata.obs["stimage_annotation"].isna().sum()
    np.int64(0)
    """
    _validate.check_anndata(adata)
    _validate.check_choice("head", head, HEADS)
    _validate.check_positive("n_components", n_components)
    _validate.check_key_added(key_added)
    parts = [adata]
    if reference is not None:
        _validate.check_anndata(reference, "reference")
        _check_same_model(adata, reference, use_rep)
        parts.append(reference)
    vectors = [_validate.check_representation(part, use_rep) for part in parts]
    if len({part.shape[1] for part in vectors}) > 1:
        raise ValueError(
            f"obsm[{use_rep!r}] (`use_rep`) has {vectors[0].shape[1]} dimensions in `adata` and {vectors[1].shape[1]} in "
            "`reference`: embed both with the same model and options."
        )
    if reference is not None and label_key not in adata.obs:
        _validate.check_text("label_key", label_key)
        labels = [pd.Categorical([None] * adata.n_obs)]
    else:
        labels = [_labels_of(adata, label_key)]
    labels += [_labels_of(part, label_key) for part in parts[1:]]
    categories = labels[0].categories.append([part.categories for part in labels[1:]]).unique()
    codes = np.concatenate([categories.get_indexer(np.asarray(part)) for part in labels])
    found = np.unique(codes[codes >= 0])
    if len(found) < 2:
        raise ValueError(
            f"obs[{label_key!r}] (`label_key`) has {len(found)} different labels ({_validate.listing(categories[found])}), at "
            "least 2 are needed: annotate an area that crosses several domains."
        )
    probabilities = label_probabilities(
        np.concatenate(vectors, dtype=np.float64), codes, len(categories), head=head, n_components=n_components
    )[: adata.n_obs]
    adata = adata.copy() if copy else adata
    adata.obs[key_added] = pd.Categorical.from_codes(probabilities.argmax(axis=1), categories=categories)
    adata.obsm[_keys.annotation_probability(key_added)] = probabilities
    own = codes[: adata.n_obs]
    adata.uns[key_added] = {
        "params": {
            "label_key": label_key,
            "use_rep": use_rep,
            "head": head,
            "n_components": n_components,
            "n_labelled": int((own >= 0).sum()),
            "n_labelled_reference": int((codes[adata.n_obs :] >= 0).sum()),
        }
    }
    return adata if copy else None


def _labels_of(adata: AnnData, label_key: str) -> pd.Categorical:
    return label_categories(_validate.check_obs_key(adata, label_key, "label_key"), f"adata.obs[{label_key!r}]")


def _check_same_model(adata: AnnData, reference: AnnData, use_rep: str) -> None:
    """Raise if both embeddings say which model made them, and it is not the same."""
    ids = []
    for part in (adata, reference):
        notes = part.uns.get(_keys.STIMAGE, {})
        entry = notes.get(use_rep, {}) if isinstance(notes, Mapping) else {}
        ids.append(str(entry.get("model_id", "")) if isinstance(entry, Mapping) else "")
    if all(ids) and ids[0] != ids[1]:
        raise ValueError(
            f"obsm[{use_rep!r}] of `adata` is of model {ids[0]}, that of `reference` of model {ids[1]}: their vectors cannot be "
            "compared, embed both with the same model."
        )
