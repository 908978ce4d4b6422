"""From vectors to domains: methods, the number of domains, nested levels, confidence."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from stimage.models.clustering._cluster import Clustering, by_size, cluster
    from stimage.models.clustering._confidence import confidence
    from stimage.models.clustering._levels import merged, nested_labels, split
    from stimage.models.clustering._methods import METHODS
    from stimage.models.clustering._places import places_of
    from stimage.models.clustering._votes import voted

# What a name needs is loaded when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_cluster": ["Clustering", "by_size", "cluster"],
        "_confidence": ["confidence"],
        "_levels": ["merged", "nested_labels", "split"],
        "_methods": ["METHODS"],
        "_places": ["places_of"],
        "_votes": ["voted"],
    },
)
