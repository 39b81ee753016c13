"""What can go wrong between a bucket and a loaded model. Knows nothing of transports.

::

    ModelCacheError
    +-- ModelNotFound        no such model, or no such version of it
    +-- StorageUnavailable   the store cannot be read now: network, permission, no bucket
    |   +-- BlobChanged      what was listed is not there any more: list again
    |   +-- StorageInterrupted  a read broke off, or the store was too busy: trying again may help
    |   +-- ClientUnsuitable    obstore cannot read this; the cloud's SDK may
    +-- DiskUnusable         the cache directory cannot take the files: rights, owner
    |   +-- DiskFull         nor could it with all that is idle gone: no space left
    +-- LoadFailed           the files are here, and no model can be made of them
    +-- ModelTooLarge        larger than the whole budget: waiting will not help
    +-- CacheFull            fits the budget, but everything in it is in use: waiting may help
    +-- LoadPending          the load goes on, and the caller's patience is over
"""


class ModelCacheError(Exception):
    """Base of this package's errors. Its arguments make it: ``type(error)(*error.args)`` says the same."""

    is_repeated = False
    """Whether this is the memory of a failure that somebody has been told of before."""


class ModelNotFound(ModelCacheError):
    pass


class StorageUnavailable(ModelCacheError):
    pass


class BlobChanged(StorageUnavailable):
    pass


class StorageInterrupted(StorageUnavailable):
    pass


class ClientUnsuitable(StorageUnavailable):
    pass


class DiskUnusable(ModelCacheError):
    pass


class DiskFull(DiskUnusable):
    pass


class LoadFailed(ModelCacheError):
    pass


class ModelTooLarge(ModelCacheError):
    pass


class CacheFull(ModelCacheError):
    pass


class LoadPending(ModelCacheError):
    pass
