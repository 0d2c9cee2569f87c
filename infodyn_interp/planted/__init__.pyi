from infodyn_interp.planted.calibration import calibrate as calibrate
from infodyn_interp.planted.replies import REPLY_WORLDS as REPLY_WORLDS
from infodyn_interp.planted.replies import ReplyWorld as ReplyWorld
from infodyn_interp.planted.replies import draw_replies as draw_replies
from infodyn_interp.planted.scores import planted_term as planted_term
from infodyn_interp.planted.worlds import WORLDS as WORLDS
from infodyn_interp.planted.worlds import World as World
from infodyn_interp.planted.worlds import draw as draw
