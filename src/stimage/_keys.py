"""Names of everything stimage writes to AnnData. Nothing else in the package spells a key out."""

GRID = "grid"
"""Default ``key_added`` of :func:`stimage.pp.compact_grid`."""

NICHE = "niche"
"""Default ``key_added`` of :func:`stimage.pp.build_niches`; also the layer with mean expression."""

REPRESENTATION = "X_stimage"
DOMAIN = "stimage_domain"
REGION = "stimage_region"
ANNOTATION = "stimage_annotation"
HOLES = "stimage_holes"
PREDICTED = "stimage_predicted"
QUERY = "stimage_query"
STIMAGE = "stimage"
"""``uns`` entry with provenance: model id, version, parameters, vocabulary hash, seed, gene overlap."""

SOURCE = "stimage_source"
"""``uns`` entry of :func:`stimage.io.read`: where a slide was read from, and which of its parts were taken for what."""
SLIDE = "slide"
DONOR = "donor"
"""``obs`` columns of :func:`stimage.io.read` with the name of the slide and who the tissue is from."""

SPATIAL = "spatial"
ARRAY_ROW = "array_row"
ARRAY_COL = "array_col"


def grid_row(key: str = GRID) -> str:
    """Key in ``obs`` of the integer row of an observation's site."""
    return f"{key}_row"


def grid_col(key: str = GRID) -> str:
    """Key in ``obs`` of the integer column of an observation's site."""
    return f"{key}_col"


def grid_position(key: str = GRID) -> str:
    """Key in ``obsm`` of the position in [0, 100] per axis."""
    return f"X_{key}"


def region_masked(key: str = REGION) -> str:
    """Key in ``obs`` that says which observations were hidden."""
    return f"{key}_masked"


def region_lower(key: str = REGION) -> str:
    """Layer with lower bounds of reconstructed expression."""
    return f"{key}_lower"


def region_upper(key: str = REGION) -> str:
    """Layer with upper bounds of reconstructed expression."""
    return f"{key}_upper"


def annotation_probability(key: str = ANNOTATION) -> str:
    """Key in ``obsm`` of the probability of each category."""
    return f"{key}_probability"


def domain_confidence(key: str = DOMAIN) -> str:
    """Key in ``obs`` of how clearly an observation belongs to its domain."""
    return f"{key}_confidence"


def domain_level(key: str, n_domains: int) -> str:
    """Key in ``obs`` of coarser or finer domains."""
    return f"{key}_{n_domains}"


def niche_connectivities(key: str = NICHE) -> str:
    """Key in ``obsp`` of the members of each observation's niche."""
    return f"{key}_connectivities"


def niche_bbox(key: str = NICHE) -> str:
    """Key in ``obsm`` of the box around each observation's niche."""
    return f"{key}_bbox"
