"""Mistakes in fields and paths that follow a law: solvers, residuals, their rewards and domains."""

from tests.mistakes import Mutant

DARCY, PENDULUM, FIELD = "physics/darcy.py", "physics/pendulum.py", "domains/field.py"
R_DARCY, R_PENDULUM = "rewards/field/darcy.py", "rewards/field/pendulum.py"
T_DARCY, T_PENDULUM, T_FIELD, T_LAWS = (
    "physics/test_darcy.py", "physics/test_pendulum.py", "rewards/test_field.py", "domains/test_laws.py",
)  # fmt: skip

MUTANTS = [
    Mutant(
        "laws: the arithmetic mean at the faces",
        DARCY,
        "2 / (resistance[..., 1:, :] + resistance[..., :-1, :]),",
        "(1 / resistance[..., 1:, :] + 1 / resistance[..., :-1, :]) / 2,",
        T_DARCY,
        "torch_and_numpy",
    ),
    Mutant(
        "laws: faces without their width",
        DARCY,
        "np.exp(-log_k) / log_k.shape[-1] ** 2",
        "np.exp(-log_k)",
        T_DARCY,
        "second_order",
    ),
    Mutant(
        "laws: the source's sign",
        DARCY,
        "return out - source(log_k.shape[-1])",
        "return out + source(log_k.shape[-1])",
        T_DARCY,
        "own_stencil",
    ),
    Mutant(
        "laws: p keeps its constant", DARCY, "return (p - p.mean()).reshape", "return p.reshape", T_DARCY, "least_norm"
    ),
    Mutant("laws: modes without their eigenvalues", DARCY, "np.sqrt(values[-MODES:])", "1.0", T_DARCY, "covariance"),
    Mutant(
        "laws: what conducts nothing is solved", DARCY, "and min(down.min(), right.min()) > 0", "", T_DARCY, "cannot_be"
    ),
    Mutant(
        "laws: another face in torch",
        DARCY,
        "-pad(down, (0, 0, 1, 1)).diff(dim=1)",
        "pad(down, (0, 0, 1, 1)).diff(dim=1)",
        T_DARCY,
        "torch_and_numpy",
    ),
    Mutant(
        "laws: Euler's steps",
        PENDULUM,
        "step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)",
        "step * k1",
        T_PENDULUM,
        "another_integrator",
    ),
    Mutant(
        "laws: a pendulum of small angles", PENDULUM, "[omega, -theta.sin()]", "[omega, -theta]", T_PENDULUM, "elliptic"
    ),
    Mutant(
        "laws: half the speed's energy", PENDULUM, "omega.square() / 2", "omega.square() / 4", T_PENDULUM, "keep_their"
    ),
    Mutant(
        "laws: the defect to the same time",
        PENDULUM,
        "path[..., 1:] - advance",
        "path[..., :-1] - advance",
        T_PENDULUM,
        "keep_their",
    ),
    Mutant(
        "laws: a black box that says it is none",
        R_DARCY,
        "self.over, self.differentiable = over, gradients",
        "self.over, self.differentiable = over, True",
        T_FIELD,
        "both_forms",
    ),
    Mutant(
        "laws: the residual's other sign",
        R_DARCY,
        "Score(-(off + SMALLEST).log10()",
        "Score((off + SMALLEST).log10()",
        T_FIELD,
        "pressure_of_zero",
    ),
    Mutant(
        "laws: a solver that failed counts",
        R_DARCY,
        "error.isfinite(), {",
        "torch.ones_like(error, dtype=torch.bool), {",
        T_FIELD,
        "both or fails",
    ),
    Mutant(
        "laws: the drift is not paid for",
        R_PENDULUM,
        "self.relative else drift + defect",
        "self.relative else defect",
        T_FIELD,
        "pendulum_by_hand",
    ),
    Mutant(
        "laws: a calm pendulum is paid",
        PENDULUM,
        "defect(path) / path.norm(dim=1).mean(1)",
        "defect(path)",
        T_FIELD,
        "calmer",
    ),
    Mutant(
        "laws: an even field is paid",
        R_DARCY,
        "relative_residual(log_k, p, effect)",
        "relative_residual(log_k, p)",
        T_FIELD,
        "evener",
    ),
    Mutant(
        "laws: a unit of K is paid",
        DARCY,
        "whole = p - even / mean",
        "whole = p - even",
        T_FIELD,
        "evener",
    ),
    Mutant("laws: waves without their norm", DARCY, "np.where(k, 2, 1)", "np.where(k, 2, 2)", T_DARCY, "sparse_solver"),
    Mutant(
        "laws: p with its mean", "domains/darcy.py", "p - p.mean((1, 2), keepdim=True)", "p", T_LAWS, "without_a_mean"
    ),
    Mutant("laws: held-out data are those of training", FIELD, "(HELD_OUT, 1)", "(HELD_OUT, 0)", T_LAWS, "held_out"),
    Mutant("laws: a base of any size", "diffusion/files.py", "if has != wanted or", "if", T_LAWS, "another_grid"),
    Mutant(
        "laws: pairs with themselves",
        "functional/divergences.py",
        "energy(x, x), energy(x, y), energy(y, y)).item()",
        "energy(x, x), energy(x, y), energy(x, x)).item()",
        "functional/test_divergences.py",
        "by_hand",
    ),
    Mutant(
        "laws: a card of another network",
        "diffusion/denoisers.py",
        "network=type(self.network).__name__)",
        'network="UNet2DModel")',
        T_LAWS,
        "of_another_are",
    ),
    Mutant(
        "laws: both fields in the colours of K",
        "physics/drawing.py",
        'coloured(p, SPAN_P, "coolwarm")',
        'coloured(p, SPAN_P, "cividis")',
        T_LAWS,
        "pictures",
    ),
]
