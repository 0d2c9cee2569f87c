from . import energy as energy
from . import figures as figures
from . import hooks as hooks
from . import identify as identify
from . import measures as measures
from . import models as models
from . import observe as observe
from . import observing as observing
from . import planted as planted
from . import report as report
from . import results as results
from . import run as run
from . import texts as texts
from .comparing import compare as compare
from .errors import RequestError as RequestError
from .errors import RunError as RunError
from .hooks import capture as capture
from .models import open_model as open_model
from .report import write_report as write_report
from .results import export as export
from .results import open_result as open_result
from .results import summary as summary
from .results import table as table
from .sweeping import sweep as sweep
from .sweeping.trying import try_column as try_column
from .texts import read_texts as read_texts

__version__: str
