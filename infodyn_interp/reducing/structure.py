"""Groups `spectrum` and `profile`: which directions the texts decide, what they leave open of rho and of tracks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray

from infodyn_interp.energy.carry import Variogram, per_token
from infodyn_interp.energy.terms import FINE, TAUS, WIDTHS
from infodyn_interp.identify.profile import profile_moments, profile_rho, profile_track
from infodyn_interp.identify.spectrum import Spectrum, fisher_spectrum
from infodyn_interp.reducing.labels import GRID, label
from infodyn_interp.reducing.layers import of_each

if TYPE_CHECKING:
    from infodyn_interp.sweeping import Gathered

NAMED = 3  # loadings that name a direction


def label_spectrum(gathered: "Gathered", layers: Sequence[int]) -> xarray.Dataset:
    """The Fisher spectrum of each layer's columns; heads share it."""
    spectra = of_each(lambda layer: fisher_spectrum(gathered.moments[layer]), layers)
    columns = spectra[0].columns
    direction = ("layer", "direction")
    tracks = ("layer", "width", "tau")
    return xarray.Dataset(
        {
            "eigenvalue": label(
                direction,
                _padded([one.eigenvalue for one in spectra]),
                "1",
                "Fisher information of scaled columns",
            ),
            "floored": label(
                direction,
                _padded([one.floored.astype(float) for one in spectra]),
                "1",
                "1 where the eigenvalue lies below the floor and is never inverted",
            ),
            "block_share": label(
                (*direction, "block"),
                _padded([one.block_share for one in spectra]),
                "1",
                "squared loading of a direction on a block",
            ),
            "named": label(direction, _named(spectra), "text", "its largest loadings"),
            "estimable": label(
                ("layer", "column"),
                np.stack([one.estimable for one in spectra]).astype(float),
                "1",
                "1 where the texts decide the column's coefficient",
            ),
            "lost": label(
                ("layer", "part"),
                [list(one.lost.values()) for one in spectra],
                "directions",
                "directions that the texts do not show beside all others",
            ),
            "track_within": label(
                tracks,
                np.stack([one.track_within for one in spectra]),
                "1",
                "share of a track left after key effects",
            ),
            "track_left": label(
                tracks,
                np.stack([one.track_left for one in spectra]),
                "1",
                "share left after key effects and nuisance",
            ),
            "aliases": label(
                ("layer",), [_aliases(one) for one in spectra], "text", "columns not told apart"
            ),
        },
        coords={
            "layer": list(layers),
            "block": list(columns.blocks),
            "part": list(spectra[0].lost),
            "column": list(columns.names),
            "width": list(WIDTHS),
            "tau": list(TAUS),
        },
    )


def _padded(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Layers of unequal numbers of directions as one array, NaN where a layer has no more."""
    most = max(len(one) for one in arrays)
    fill = [np.full((most - len(one), *one.shape[1:]), np.nan) for one in arrays]
    return np.stack([np.concatenate(pair) for pair in zip(arrays, fill, strict=True)])


def _named(spectra: Sequence[Spectrum]) -> np.ndarray:
    most = max(len(one.eigenvalue) for one in spectra)
    out = np.full((len(spectra), most), "", object)
    for layer, one in enumerate(spectra):
        for direction in range(len(one.eigenvalue)):
            leading = one.leading(direction, NAMED)
            out[layer, direction] = ", ".join(f"{weight:+.2f} {name}" for name, _, weight in leading)
    return out


def _aliases(spectrum: Spectrum) -> str:
    return "; ".join(f"{one.kind}: {', '.join(one.columns)} ({one.evidence:.2g})" for one in spectrum.aliases)


def label_profile(gathered: "Gathered", layers: Sequence[int]) -> xarray.Dataset:
    """Profiles of rho, and of the track's width and memory, by head."""
    tracks = [profile_track(gathered.fits[layer]) for layer in layers]
    variables = {
        "kept": label(
            ("layer", "width", "tau", "head"),
            np.stack([one.kept for one in tracks]).astype(float),
            "1",
            "1 where the documents do not reject this width and memory against the chosen ones",
        )
    }
    coords: dict[str, object] = {"layer": list(layers), "width": list(WIDTHS), "tau": list(TAUS)}
    coords["head"] = np.arange(gathered.fits[layers[0]].rms.shape[0])
    if gathered.fine:
        variables |= _finer(gathered, layers)
        coords["width_fine"] = (
            "width_fine",
            list(FINE.widths),
            {"units": "1", "long_name": "kernel width w"},
        )
        coords["tau_fine"] = (
            "tau_fine",
            list(FINE.taus),
            {"units": "tokens", "long_name": "decay length of the track"},
        )
    if gathered.variograms is not None and all(
        _enough(gathered.variograms[layer].chosen) for layer in layers
    ):
        variograms = gathered.variograms
        found = of_each(lambda layer: profile_rho(variograms[layer].chosen), layers)

        def of(name: str) -> np.ndarray:
            return np.stack([np.asarray(getattr(one, name), float) for one in found])

        stride = gathered.fits[layers[0]].columns.query_stride
        jackknife_low, jackknife_high = (
            np.stack([getattr(one.fisher, end) for one in found]) for end in ("low", "high")
        )
        variables |= {
            "rise": label(
                ("layer", "point", "head"), of("rise"), "1", "weighted squares left over the least, less one"
            ),
            "threshold": label(GRID, of("threshold"), "1", "rise up to which rho is not rejected"),
            "design_effect": label(
                GRID, of("design_effect"), "1", "variance of rho's score over documents, over naive"
            ),
            "best": label(GRID, per_token(of("best"), stride), "1", "rho of the least squares"),
            "low": label(GRID, per_token(of("low"), stride), "1", "lowest rho not rejected"),
            "high": label(GRID, per_token(of("high"), stride), "1", "highest rho not rejected"),
            "fisher_low": label(GRID, per_token(jackknife_low, stride), "1", "lower end by jackknife"),
            "fisher_high": label(GRID, per_token(jackknife_high, stride), "1", "upper end by jackknife"),
            "disagree": label(
                GRID, of("disagree"), "1", "1 where profile and jackknife intervals do not agree"
            ),
            "reason": label(
                GRID,
                np.array([one.reason for one in found], object),
                "text",
                "what differs where they disagree",
            ),
        }
        rho = per_token(found[0].rho, stride)
        coords["rho"] = ("point", rho, {"units": "1", "long_name": "what one token keeps"})
    return xarray.Dataset(variables, coords=coords).transpose("layer", "head", ...)


def _finer(gathered: "Gathered", layers: Sequence[int]) -> dict[str, xarray.Variable]:
    """The finer grid of tracks, from the windows of the ladder; NaN in layers that were not read on it."""
    finest = of_each(lambda layer: profile_moments(gathered.fine[layer]), gathered.fine)
    found = dict(zip(gathered.fine, finest, strict=True))
    shape = len(FINE.widths), len(FINE.taus), gathered.fits[layers[0]].rms.shape[0]
    nothing = np.full(shape, np.nan)
    dims = ("layer", "width_fine", "tau_fine", "head")
    excess, allowed = (
        np.stack([getattr(found[layer], name) if layer in found else nothing for layer in layers])
        for name in ("excess", "allowed")
    )
    return {
        "kept_fine": label(
            dims,
            np.where(np.isnan(excess), np.nan, excess <= allowed),
            "1",
            "1 where first windows do not reject this width and memory against the chosen ones of a finer grid",
        ),
        "excess_fine": label(
            dims,
            excess,
            "1",
            "held-out squares within keys over the chosen track's, as a share of energy variance",
        ),
        "allowed_fine": label(dims, allowed, "1", "excess up to which a track is not rejected"),
    }


def _enough(variogram: Variogram) -> bool:
    """A profile of three parameters needs a lag more."""
    return len(variogram.lags) > 3
