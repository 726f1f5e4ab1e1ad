"""The closed loop: chains that see what the environment shows, credit that is exact, runs held against the exact optimum."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pgdlab import cli
from pgdlab.config.compose import compose
from pgdlab.control.episodes import Episodes
from pgdlab.credit.environment import Environment as Credit
from pgdlab.evaluation.evaluate import measure
from pgdlab.oracle.regulator import matrix
from pgdlab.penalties.base import Penalties
from pgdlab.penalties.path_kl import PathKL
from pgdlab.processes import Processes
from pgdlab.rewards.base import StepRewards
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.trajectory import Trajectory
from pgdlab.trainers.closed_loop import ClosedLoop
from pgdlab.trainers.interaction import Request
from pgdlab.trainers.ppo import PPO
from pgdlab.training.build import build_module
from pgdlab.training.fit import LAST, load
from pgdlab.training.module import SteeringModule
from tests.control.exact import run
from tests.control.two_states import collected, world
from tests.worlds import fitted

QUICK = "experiment=control/quick"
TINY = ["plan.samples=40", "plan.eval_samples=4", "policy.steps=2", "trainer.epochs=1"]


def request(module: SteeringModule, rows: range) -> Request:
    policy = module.world.policy
    return Request(
        policy=policy, reference=module.world.reference, noise=Noise(7).of(3, rows), cond=torch.zeros(len(rows))
    )


@torch.no_grad()
def test_memory_that_runs_out_makes_later_chunks_smaller_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four environments, room for two rows: it runs out in the first of ten chunks, and in no other."""
    module = build_module(compose([QUICK]))
    denoiser, asked = module.policy.denoiser, []
    whole = type(denoiser).forward

    def narrow(self: Any, x: Any, t: Any, cond: Any) -> Any:
        asked.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return whole(self, x, t, cond)

    monkeypatch.setattr(type(denoiser), "forward", narrow)
    with pytest.warns(UserWarning, match="memory has run out in a pass of 4 rows"):
        ClosedLoop().collect(module.world, request(module, range(40)))
    assert [rows for rows in asked if rows > 2] == [4]
    assert module.world.capacity.rollout_batch == 2


@torch.no_grad()
def test_every_chain_sees_the_observation_before_it_and_no_other_process() -> None:
    """Four regulators of ten steps: the observation of a row is the one that the row before led to; the reward is that of the
    action it took; two environments alone, as a second process has them, do the same as among four."""
    module = build_module(compose([QUICK]))
    domain = module.world.domain
    found = ClosedLoop().collect(module.world, request(module, range(40)))
    seen = domain.conditioning.table[found.trajectory.cond].reshape(4, 10, 3)
    after = domain.conditioning.table[found.rewards.episodes.after].reshape(4, 10, 3)
    assert torch.equal(seen[:, 1:], after[:, :-1])
    torch.testing.assert_close(
        seen[..., 2], (torch.arange(10) / 10).expand(4, 10)
    )  # the share of the steps that is done
    action = domain.decoder(found.trajectory.sample).reshape(4, 10)
    paid = -(after[..., 0] ** 2 + 0.1 * after[..., 1] ** 2 + 0.1 * action**2)
    # observations are kept in fp32
    torch.testing.assert_close(found.rewards.total.reshape(4, 10).float(), paid, rtol=1e-4, atol=1e-5)
    half = ClosedLoop().collect(module.world, request(module, range(20, 40)))
    # a matrix product of other rows may be rounded otherwise
    torch.testing.assert_close(half.trajectory.sample, found.trajectory.sample[20:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(half.rewards.values, found.rewards.values[20:], rtol=1e-4, atol=1e-5)


def made_up(kl: list[list[float]], reward: list[float]) -> tuple[Trajectory, StepRewards]:
    """One environment of as many chunks as rewards, two denoising steps each, with these KLs."""
    rows, zero = len(reward), torch.zeros(len(reward))
    x, cond = torch.zeros(rows, 1, 1), torch.arange(rows)
    trajectory = Trajectory(
        cond=cond, states=torch.zeros(rows, 3, 1, 1), sample=x, initial=x, log_prob=torch.zeros(rows, 2).double(),
        initial_log_prob=zero, reference_mean=torch.zeros(rows, 2, 1, 1), kl=torch.tensor(kl).double(),
        log_ratio=torch.zeros(rows, 2).double(), initial_log_ratio=zero, estimates=torch.zeros(rows, 0, 1, 1),
        trained=(0, 1), stored_at=(0, 1, 2),
    )  # fmt: skip
    no, yes = torch.zeros(rows, dtype=torch.bool), torch.ones(rows, dtype=torch.bool)
    last = no.clone()
    last[-1] = True
    episodes = Episodes(
        chunks=rows, reward=torch.tensor(reward).double(), after=cond, terminated=last, truncated=no, measured=yes,
        returns=torch.zeros(1), length=torch.ones(1).long(), success=yes[:1], whole=yes[:1], steps=rows, has_goal=False,
        best=None, seen=torch.zeros(1, rows + 1, 1),
    )  # fmt: skip
    values = torch.stack([torch.zeros(rows).double(), torch.tensor(reward).double()], 1)
    return trajectory, StepRewards(values, zero.double(), yes, {}, episodes=episodes)


def test_an_action_answers_for_all_that_later_steps_and_chunks_are_charged() -> None:
    """By hand: rewards 5 and 3, KLs (1, 2) and (4, 8) at 1/2 a nat, V = 0, gamma and lambda 1. The first step of the first chunk
    has 5 + 3 less half of 2 + 4 + 8, the second one less half of 4 + 8; what it does itself is differentiated. gamma_denoise 1/2
    halves first steps, and their KL."""
    trajectory, rewards = made_up([[1, 2], [4, 8]], [5, 3])
    of = world(1)
    of = replace(of, penalties=Penalties({"path_kl": PathKL(coefficient=0.5)}))
    of.critic.values.zero_()
    found = Credit(gamma=1.0, gamma_lambda=1.0).assign(of, trajectory, rewards)
    assert found.table.tolist() == [[8 - 7.5, 8 - 7, 8 - 6], [3 - 6, 3 - 4, 3]]
    assert found.weight.tolist() == [1, 1]
    assert found.targets.tolist() == [[8 - 7.5] * 2, [3 - 6] * 2]
    halved = Credit(gamma=1.0, gamma_lambda=1.0, gamma_denoise=0.5).assign(of, trajectory, rewards)
    assert halved.table.tolist() == [[0.5, 0.5, 2], [-3, -0.5, 3]]
    assert halved.weight.tolist() == [0.5, 1]
    later = Credit(gamma=0.5, gamma_lambda=1.0).assign(of, trajectory, rewards)
    assert later.table[0].tolist() == [5 + 1.5 - 1.5 - 3, 5 + 1.5 - 1 - 3, 5 + 1.5 - 3]


def test_ppo_reaches_the_exact_optimum_of_the_regulator(tmp_path: Path) -> None:
    """Of four steps. The clone's regret is that of the expert (exact, within five standard errors of 2,000 episodes); nine
    tenths of it, and more, are gone after 50 iterations: noise of 0.2 that the kernel keeps costs what the oracle says, and no
    policy is below that."""
    words = ["domain.environment.limit=4", "plan.samples=256", "plan.eval_samples=2000", "plan.iterations=50"]
    module = fitted(tmp_path, QUICK, *words)
    environment, policy = module.world.domain.environment, module.world.policy
    problem, gain = environment.regulator(), matrix(environment.expert_gain)
    with torch.no_grad():
        before, after = (measure(module.world, p).figures for p in (module.world.reference, policy))
    best = problem.optimum()
    floor = (0.2 * module.world.domain.decoder.spread.double()) ** 2
    noise = problem.optimum(floor.reshape(1, 1)).cost(environment.initial) - best.cost(environment.initial)
    expert = problem.of(gain, matrix(((environment.expert_noise**2,),))).cost(environment.initial)
    own = expert - best.cost(environment.initial)
    assert (
        abs(before["regret"] - own) < 5 * before["regret_stderr"] + 0.1 * own
    )  # a network's clone, of 40 steps of data
    assert noise - 5 * after["regret_stderr"] < after["regret"] < 0.1 * before["regret"]
    assert module.history[-1]["critic_explained"] > 0.8


def test_noise_tuning_reaches_the_exact_tilt(tmp_path: Path) -> None:
    """rho(w | o) on the frozen exact denoiser, whose ODE maps w to actions affinely: what is gained of return less KL is nine
    tenths, and more, of what the best policy there is gains, and not more than all of it, within five standard errors."""
    words = ["domain.environment.limit=4", "plan.samples=256", "plan.eval_samples=2000", "plan.iterations=40"]
    world = run(tmp_path, "experiment=control/initial", *words).world
    with torch.no_grad():
        figures = measure(world, world.policy).figures
        told, environment = world.domain.conditioning, world.domain.environment
        told.write(cond := told.reserve(3), torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]))

        def acted(noise: float) -> torch.Tensor:
            x = torch.full((3, 1, 1), noise)
            for h in range(world.policy.steps):
                x = world.reference(x, torch.full((3,), h), cond).mean
            return world.domain.decoder(x)[:, 0, 0].double()

        start, moved = acted(0.0), acted(1.0)
    gain, spread = (start[1:] - start[0])[None], (moved - start)[0].square().reshape(1, 1)
    problem, lam = environment.regulator(), 0.1
    best = -problem.tilted(gain, spread, lam).cost(environment.initial)
    base = -problem.of(gain, spread).cost(environment.initial)
    own = -problem.optimum().cost(environment.initial) - figures["regret"] - lam * 4 * figures["kl_nats"]
    assert 0.9 < (own - base) / (best - base) < 1 + 5 * figures["regret_stderr"] / (best - base)


def test_a_run_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes, conditions and noise are keyed by the iteration; the checkpoint holds the normalisers. With a trust region, whose
    old policy reads the same observations."""
    monkeypatch.chdir(tmp_path)
    words = [QUICK, *TINY, "penalty=[path_kl,trust_region]", "initial=informed", "plan.checkpoint_every=1"]
    words += ["optimizer.final_lr=1.0"]  # whose course is that of plan.iterations
    assert cli.main([*words, "name=whole", "plan.iterations=3"]) == 0
    assert cli.main([*words, "name=cut", "plan.iterations=1"]) == 0
    assert cli.main(["resume=runs/cut", "plan.iterations=3"]) == 0
    whole, cut = (load(tmp_path / "runs" / name / LAST)["current_model_state"] for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert any(name.endswith("conditioning.mean") for name in whole)
    assert all(torch.equal(whole[name], cut[name]) for name in whole if name != "seconds")
    assert int(whole["queries"]) == 3 * 40


REFUSED: list[tuple[list[str], str]] = [
    (["initial=conditional"], "initial=informed"),
    (["reward={_target_: tests.worlds.Bright}"], "set reward=paid"),
    (["plan.samples=45"], "must be a multiple of 10"),
    (["plan.group=2"], "set plan.group=1"),
    (["trainer=reinforce"], "set trainer=dppo"),
    (["trainer=draft"], "trainer=dppo|gradient"),
    (["policy=network"], "does not see the observation"),
    (["penalty=[terminal]"], "of one law"),
    (["domain.chunk=11"], "from 1 to the 10 steps"),
    (["domain.weights=nowhere"], "experiment=pretrain/lqr"),
]


@pytest.mark.parametrize(("words", "says"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_what_does_not_go_with_an_environment_is_refused(words: list[str], says: str) -> None:
    given: Any = {word.partition("=")[0] for word in words}
    with pytest.raises(ValueError, match=says):
        build_module(compose([QUICK, *(w for w in TINY[:1] if w.partition("=")[0] not in given), *words]))


def test_advantages_are_of_all_processes_and_scaled_by_their_own_spread() -> None:
    """Two processes that have collected the same: each has the rows of both, and the objective is divided by the standard
    deviation of GAE over them, not by that of rewards."""
    of = world(50)
    found = collected(of)
    alone = PPO(credit=Credit(gamma=0.9), scale="batch_std", baseline="mean")
    _, own, scale = alone.credited(of, found)
    twice = replace(of, processes=Processes(0, 2, lambda x: torch.cat([x, x])), plan=replace(of.plan, samples=300))
    _, both, of_both = alone.credited(twice, found)
    torch.testing.assert_close(both, torch.cat([own, own]), rtol=1e-9, atol=1e-12)
    gained = Credit(gamma=0.9).assign(of, found.trajectory, found.rewards).spread
    assert scale == pytest.approx(1 / gained.std().item(), rel=1e-9)
    assert of_both == pytest.approx(1 / torch.cat([gained, gained]).std().item(), rel=1e-9)
