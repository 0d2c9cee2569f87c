from infodyn_interp.measures.action import helpful as helpful
from infodyn_interp.measures.jumps import find_jumps as find_jumps
from infodyn_interp.measures.multipliers import fit_multipliers as fit_multipliers
