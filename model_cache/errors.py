"""What can go wrong between a bucket and a loaded model. Knows nothing of transports.

::

    ModelCacheError
    +-- ModelNotFound        no such model, or no such version of it
    +-- StorageUnavailable   the store cannot be read now: network, permission, no bucket, changed under way
    +-- LoadFailed           the files are here, and no model can be made of them
    +-- ModelTooLarge        larger than the whole budget: waiting will not help
    +-- CacheFull            fits the budget, but everything in it is in use: waiting may help
    +-- LoadPending          the load goes on, and the caller's patience is over
"""


class ModelCacheError(Exception):
    """Base of this package's errors."""


class ModelNotFound(ModelCacheError):
    pass


class StorageUnavailable(ModelCacheError):
    pass


class LoadFailed(ModelCacheError):
    pass


class ModelTooLarge(ModelCacheError):
    pass


class CacheFull(ModelCacheError):
    pass


class LoadPending(ModelCacheError):
    pass
