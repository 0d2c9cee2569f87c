from infodyn_interp.measures.action import helpful as helpful
from infodyn_interp.measures.fidelity import honest as honest
from infodyn_interp.measures.fits import fit_maps as fit_maps
from infodyn_interp.measures.jumps import find_jumps as find_jumps
from infodyn_interp.measures.maps import read_maps as read_maps
from infodyn_interp.measures.multipliers import fit_multipliers as fit_multipliers
from infodyn_interp.measures.stability import exponents as exponents
from infodyn_interp.measures.stability import harmless as harmless
