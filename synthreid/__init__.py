__version__ = "0.1.0"


def __getattr__(name):  # what takes long to import waits until somebody asks for it
    if name in ('load', 'Model'):
        from . import model

        return vars(model)[name]
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
