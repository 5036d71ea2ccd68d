__version__ = "0.1.0"

# nbdev writes the line above; the rest is written by hand (page 98, "From Python", explains it).
# The names of the front door: `from nanogpt_lit import GPT`. Each comes from its module when it is asked for, so `import nanogpt_lit` loads nothing.
FRONT = dict(
    UserError='core', RunConfig='config', GPTConfig='config', OptimConfig='config', TrainConfig='config',
    Tokenizer='tokenizer', CharTokenizer='tokenizer', load_tokenizer='tokenizer',
    GPT='model', generate='generate', prepare='data', TokenData='loader', BatchPlan='loader',
    make_optimizers='optim', lr_at='optim', Trainer='trainer', Callback='trainer',
    save_checkpoint='checkpoint', load_checkpoint='checkpoint', latest_checkpoint='checkpoint',
    evaluate_loss='evaluate', bits_per_byte='evaluate', hellaswag='evaluate', load_run='interop', to_hf='interop', from_hf='interop',
    pretrain='pretrain', add_lora='lora', merge_lora='lora', finetune='finetune')

__all__ = [*FRONT, '__version__'] # noqa: PLE0604

TYPE_CHECKING = False
if TYPE_CHECKING: # for editors and type checkers, which run nothing; a test compares it with FRONT
    from .checkpoint import latest_checkpoint as latest_checkpoint, load_checkpoint as load_checkpoint, save_checkpoint as save_checkpoint
    from .config import GPTConfig as GPTConfig, OptimConfig as OptimConfig, RunConfig as RunConfig, TrainConfig as TrainConfig
    from .core import UserError as UserError
    from .data import prepare as prepare
    from .evaluate import bits_per_byte as bits_per_byte, evaluate_loss as evaluate_loss, hellaswag as hellaswag
    from .finetune import finetune as finetune
    from .generate import generate as generate
    from .interop import from_hf as from_hf, load_run as load_run, to_hf as to_hf
    from .loader import BatchPlan as BatchPlan, TokenData as TokenData
    from .lora import add_lora as add_lora, merge_lora as merge_lora
    from .model import GPT as GPT
    from .optim import lr_at as lr_at, make_optimizers as make_optimizers
    from .pretrain import pretrain as pretrain
    from .tokenizer import CharTokenizer as CharTokenizer, Tokenizer as Tokenizer, load_tokenizer as load_tokenizer
    from .trainer import Callback as Callback, Trainer as Trainer

import os, sys
from types import ModuleType

# OpenMP's threads ask so many times whether the others are done before they sleep; read once, by torch (page 00, "Threads that wait")
if 'torch' not in sys.modules and 'OMP_WAIT_POLICY' not in os.environ: os.environ.setdefault('GOMP_SPINCOUNT', '4000')

class _Named(ModuleType):
    "A module that bears the name of its main function, and can be called like it: `generate(model, ids, 8)`"
    @property
    def __wrapped__(self): return self.__dict__[self.__name__.rpartition('.')[2]] # where `inspect.signature` and `help` look
    def __call__(self, *args, **kwargs): return self.__wrapped__(*args, **kwargs)

class _Front(ModuleType):
    def __getattr__(self, name):
        if name not in FRONT: raise AttributeError(f'module {self.__name__!r} has no attribute {name!r}')
        from importlib import import_module
        module = import_module(f'{self.__name__}.{FRONT[name]}')
        if FRONT[name] == name: return module
        value = getattr(module, name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name, value): # Python puts a module here that it has loaded
        if FRONT.get(name) == name and isinstance(value, ModuleType): value.__class__ = _Named
        super().__setattr__(name, value)

    def __dir__(self): return sorted({*super().__dir__(), *FRONT})

sys.modules[__name__].__class__ = _Front
