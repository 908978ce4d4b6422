"""Tables of completed annotations and of intervals, for _tables.py."""

from __future__ import annotations

from _speed_tables import read, table


def annotation() -> str:
    records = [record for record in read("uses")["annotation"] if record["head"] == "logistic"]
    shapes = ("corner", "block", "strip")
    body = []
    for slide, embedding in dict.fromkeys((record["slide"], record["embedding"]) for record in records):
        found = {r["shape"]: r for r in records if (r["slide"], r["embedding"]) == (slide, embedding)}
        cells = [
            f"{found[shape]['accuracy']:.3f} ± {found[shape]['accuracy_sd']:.3f}" if shape in found else "–"
            for shape in shapes
        ]
        body.append(
            [slide, embedding, *cells, f"{found['strip']['calibration_error']:.3f}" if "strip" in found else "–"]
        )
    return table(["slide", "embedding", *shapes, "calibration error, strip"], body)


def intervals() -> str:
    header = ["slide", "side", "genes", "intervals", "coverage", "of zeros", "of other values", "width"]
    body = [
        [
            record["slide"],
            str(record["size"]),
            record["genes"],
            record["method"],
            f"{record['coverage']:.3f} ± {record['coverage_sd']:.3f}",
            f"{record['coverage_zero']:.3f}",
            f"{record['coverage_nonzero']:.3f}",
            f"{record['width']:.3f}",
        ]
        for record in read("uses")["intervals"]
    ]
    return table(header, body)


TABLES = {"annotation": annotation, "intervals": intervals}
