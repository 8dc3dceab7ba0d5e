"""Convolutions as the linear operators they are, and what a net computes.

kernels       the well-known filters: blur, sharpen, edges
operators     any affine graph or layer as a sparse matrix and a shift
factorisation kernels as sums of products of 1-D kernels
differences   discrete gradients and Laplacians as matrices
structure     what kind of matrix that is: Toeplitz, circulant, banded, symmetric ...
scales        kernels between resolutions of an image
spectrum      periodic convolutions by the FFT: eigenvalues, condition number, solving
pieces        which ops are piecewise linear, and where their pieces meet
formulas      elementwise ops as formulas, by the algebra they are written in
projection    a feature brought back to the image
plane         all regions of a net on a plane, as polygons
regions       a net as the affine map that it is around an input, and the regions of a segment

Everything here works on graphs by evaluating them in f64; it needs scipy, which
`pip install "cnnir[mathematics]"` brings. docs/mathematics.md ties the formulas to the functions.
"""

from cnnir.mathematics import kernels
from cnnir.mathematics.chain_rule import ChainRule, chain_rule
from cnnir.mathematics.differences import gradient_matrix, laplacian_matrix
from cnnir.mathematics.equivariance import Equivariance, equivariance
from cnnir.mathematics.factorisation import CPFit, cp_fit
from cnnir.mathematics.operators import AffineOperator, as_matrix
from cnnir.mathematics.plane import Region, plane_regions
from cnnir.mathematics.projection import project
from cnnir.mathematics.regions import LocalAffine, local_affine, regions_on_segment
from cnnir.mathematics.scales import differential_operator, rescale_kernel
from cnnir.mathematics.spectrum import condition_number, eigenvalues, solve
from cnnir.mathematics.structure import Structure

__all__ = [
    "AffineOperator",
    "CPFit",
    "ChainRule",
    "Equivariance",
    "LocalAffine",
    "Region",
    "Structure",
    "as_matrix",
    "chain_rule",
    "condition_number",
    "cp_fit",
    "differential_operator",
    "eigenvalues",
    "equivariance",
    "gradient_matrix",
    "kernels",
    "laplacian_matrix",
    "local_affine",
    "plane_regions",
    "project",
    "regions_on_segment",
    "rescale_kernel",
    "solve",
]
