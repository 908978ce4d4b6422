from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stimage import _validate
from stimage._paths import path_of
from stimage.benchmark._domains import POOLED

_FORMAT_VERSION = 1
_FACTS = ("method", "protocol", "head", "slide")


@dataclass(frozen=True)
class Report:
    """Scores of a comparison and what they were computed from.

    Parameters
    ----------
    records
        One row for each score, as from :func:`evaluate_domains`.
    metadata
        JSON-compatible: ``slides`` (hashes of counts and labels), ``versions``, ``parameters`` (with seeds),
        ``transductive`` (of each method: whether it was trained on what it is tested on; None when that is not known) and
        ``models`` (what each stimage representation was trained on).

    Examples
    --------
    >>> import pandas as pd
    >>> from stimage.benchmark import Report
    >>> rows = [["mine", "random", "knn", "a", 0, 0.5], ["mine", "random", "knn", "a", 1, 0.7]]
    >>> records = pd.DataFrame(rows, columns=["method", "protocol", "head", "slide", "repeat", "ari"])
    >>> report = Report(records, {"transductive": {"mine": True}})
    >>> report.table("random", "ari", "knn")["a", "mean"]
    method
    mine (transductive)    0.6
    Name: (a, mean), dtype: float64
    """

    records: pd.DataFrame
    metadata: dict[str, Any]

    def label(self, method: str) -> str:
        """Name of a method in tables: a transductive one is marked.

        Parameters
        ----------
        method
            Name of the method in the records.

        Returns
        -------
        str
            Its name to show.
        """
        return f"{method} (transductive)" if self.metadata.get("transductive", {}).get(method) else method

    def select(self, protocol: str, metric: str, head: str) -> pd.DataFrame:
        """Single scores of one metric.

        Parameters
        ----------
        protocol, metric, head
            Which scores.

        Returns
        -------
        pandas.DataFrame
            ``method`` (as shown), ``slide``, ``repeat`` and ``value``.

        Raises
        ------
        KeyError
            If the report has no such scores; says which it has.
        """
        metrics = [name for name in self.records.columns if name not in (*_FACTS, "repeat", "n_train", "n_test")]
        if metric not in metrics:
            raise KeyError(f"`metric`={metric!r} is not in the report; available: {_validate.listing(metrics)}.")
        chosen = self.records[(self.records["protocol"] == protocol) & (self.records["head"] == head)]
        chosen = chosen[chosen[metric].notna()]
        if not len(chosen):
            have = self.records[self.records[metric].notna()]
            pairs = sorted({f"{p}/{h}" for p, h in zip(have["protocol"], have["head"], strict=True)})
            raise KeyError(
                f"The report has no {metric!r} of `protocol`={protocol!r} and `head`={head!r}; available: "
                f"{_validate.listing(pairs, 20)}."
            )
        return pd.DataFrame(
            {
                "method": [self.label(method) for method in chosen["method"]],
                "slide": chosen["slide"].to_numpy(),
                "repeat": chosen["repeat"].to_numpy(),
                "value": chosen[metric].to_numpy(dtype=float),
            }
        )

    def table(self, protocol: str, metric: str, head: str) -> pd.DataFrame:
        """Methods by slides.

        Parameters
        ----------
        protocol, metric, head
            Which scores.

        Returns
        -------
        pandas.DataFrame
            Index: methods in the order of the records. Columns: slide and ``mean`` or ``sd`` (n - 1) over repetitions,
            NaN for a single one.

        Raises
        ------
        KeyError
            If the report has no such scores.
        """
        values = self.select(protocol, metric, head)
        grouped = values.groupby(["method", "slide"], sort=False)["value"]
        table = pd.DataFrame({"mean": grouped.mean(), "sd": grouped.std(ddof=1)}).unstack("slide")
        table = table.swaplevel(axis=1)
        columns = [(slide, part) for slide in values["slide"].unique() for part in ("mean", "sd")]
        return table.reindex(index=values["method"].unique(), columns=pd.MultiIndex.from_tuples(columns)).rename_axis(
            index="method"
        )

    def mean_over_slides(self, protocol: str, metric: str, head: str) -> pd.DataFrame:
        """Mean of each method over the slides, each slide counting once.

        Parameters
        ----------
        protocol, metric, head
            Which scores.

        Returns
        -------
        pandas.DataFrame
            Index: methods. ``mean`` and ``sd`` (n - 1) over the means of the slides, and ``n_slides``; scores pooled over
            slides are left out.

        Raises
        ------
        KeyError
            If the report has no such scores.
        """
        means = self.table(protocol, metric, head).xs("mean", axis=1, level=1).drop(columns=POOLED, errors="ignore")
        return pd.DataFrame(
            {"mean": means.mean(axis=1), "sd": means.std(axis=1), "n_slides": means.notna().sum(axis=1)}
        )

    def to_json(self, path: str | Path) -> None:
        """Write the report; under a temporary name first, so that a file is whole or not there.

        Parameters
        ----------
        path
            The file.
        """
        _validate.check_path("path", path)
        path = path_of(path)
        records = self.records.astype(object).where(self.records.notna(), None)
        document = {
            "format": "stimage.benchmark.Report",
            "format_version": _FORMAT_VERSION,
            "metadata": self.metadata,
            "columns": list(records.columns),
            "records": [],
        }
        # One record to a line: thousands of scores stay readable, and a change of one changes one line.
        lines = [json.dumps(record, allow_nan=False) for record in records.to_numpy().tolist()]
        text = json.dumps(document, indent=1, allow_nan=False)
        text = text.removesuffix("[]\n}") + "[\n" + ",\n".join(lines) + "\n]\n}\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as scratch:
            (Path(scratch) / path.name).write_text(text, encoding="utf-8")
            os.replace(Path(scratch) / path.name, path)

    @classmethod
    def from_json(cls, path: str | Path) -> Report:
        """Read a report that :meth:`to_json` wrote.

        Parameters
        ----------
        path
            The file.

        Returns
        -------
        Report
            The report.

        Raises
        ------
        FileNotFoundError
            If there is no file.
        ValueError
            If it is not a report, or of another version.
        """
        _validate.check_path("path", path)
        try:
            document = json.loads(path_of(path).read_text(encoding="utf-8"))
            if document["format"] != "stimage.benchmark.Report" or document["format_version"] != _FORMAT_VERSION:
                raise ValueError(f"format {document['format']!r}, version {document['format_version']!r}")
            records = pd.DataFrame(document["records"], columns=document["columns"])
            metadata = dict(document["metadata"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"`path`={str(path)!r} is not a report of this version of stimage: {error}.") from error
        for name in records.columns.difference(_FACTS):
            records[name] = pd.to_numeric(records[name])
        return cls(records, metadata)
