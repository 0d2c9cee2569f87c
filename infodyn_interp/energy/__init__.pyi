from infodyn_interp.energy.carry import Variogram as Variogram
from infodyn_interp.energy.carry import fit_carry as fit_carry
from infodyn_interp.energy.fields import compute_term as compute_term
from infodyn_interp.energy.fitting import fit as fit
from infodyn_interp.energy.moments import Moments as Moments
from infodyn_interp.energy.reference import REFERENCES as REFERENCES
from infodyn_interp.energy.removal import ablate as ablate
from infodyn_interp.energy.terms import Prosody as Prosody
