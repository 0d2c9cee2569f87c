from infodyn_interp.identify.evidence import Variograms as Variograms
from infodyn_interp.identify.evidence import weigh as weigh
from infodyn_interp.identify.profile import profile_rho as profile_rho
from infodyn_interp.identify.profile import profile_track as profile_track
from infodyn_interp.identify.spectrum import fisher_spectrum as fisher_spectrum
from infodyn_interp.identify.verdict import Verdict as Verdict
from infodyn_interp.identify.verdict import judge as judge
from infodyn_interp.identify.verdict import verdicts as verdicts
