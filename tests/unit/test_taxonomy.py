"""The vocabulary is complete, and its stored integers stay."""

from __future__ import annotations

from slmtrace.attribute.rules import ON_CPU, WAITING, Evidence, State
from slmtrace.model.taxonomy import CAUSES, PHASE_MEANINGS, STAGES, Cause, Phase, Stage


def test_every_phase_cause_and_stage_is_explained() -> None:
    assert set(PHASE_MEANINGS) == set(Phase)
    assert set(CAUSES) == set(Cause)
    assert set(STAGES) == set(Stage)


def test_every_phase_has_a_cause() -> None:
    assert {cause.phase for cause in Cause} == set(Phase)


def test_every_evidence_says_what_running_and_every_state_what_waiting_means() -> None:
    assert set(ON_CPU) == set(Evidence)
    assert set(WAITING) == set(State) - {State.RUN, State.NO_SCHED}


def test_stored_integers_have_not_changed() -> None:
    assert [int(phase) for phase in Phase] == list(range(8))
    causes = (Cause.NO_EVIDENCE, Cause.BLOCK_IO_WAIT, Cause.ANON_FAULT, Cause.H2D_PAGEABLE, Cause.CUDA_INIT)
    assert [int(cause) for cause in causes] == [0, 10, 20, 30, 40]
    assert [int(cause) for cause in (Cause.ENGINE_QUEUE, Cause.GPU_KERNEL, Cause.IMPORT)] == [50, 60, 70]
    stages = (Stage.PROCESS_START, Stage.WEIGHTS, Stage.RECEIVE, Stage.PREFILL, Stage.DELIVER)
    assert [int(stage) for stage in stages] == [0, 7, 20, 27, 31]
