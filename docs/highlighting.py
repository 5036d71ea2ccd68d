"What makes the pages quicker to build, and leaves them as they are: one formatter for all code of a kind."
from functools import cache
from sphinx.highlighting import PygmentsBridge

@cache
def formatter(kind, options): return kind(**dict(options))

def get_formatter(bridge, **options): return formatter(bridge.formatter, tuple((options | bridge.formatter_args).items()))

def setup(app):
    PygmentsBridge.get_formatter = get_formatter
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
