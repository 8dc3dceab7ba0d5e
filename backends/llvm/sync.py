"""How native threads wait for each other, as LLVM text.

Shared by the step loop and the thread pool, which paste it into their modules: `@cnnir.rest` sleeps
while a word has a value (`@cnnir.doze` not for long), `@cnnir.rouse` ends that sleep, and
`@cnnir.wait` and `@cnnir.wake` add spinning before and a count of sleepers, so that nobody pays for
waking where nobody sleeps. On Linux sleeping is a futex; elsewhere it is short naps, without a call
that wakes.
"""

from __future__ import annotations

from cnnir.backends.llvm.target import CpuTarget
from cnnir.errors import BackendError

ROUNDS = 16
"""`@cnnir.wait` spins this often, each time for the given pauses; in between it offers its core."""

_NAP = 50  # microseconds, where there is no futex
_MOMENT = 100  # microseconds
_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98}  # number of the system call
_GETCPU = {"x86_64": 309, "aarch64": 168, "riscv64": 168}
_CORE = """%core = alloca i32
  store i32 -1, ptr %core
  %ignored = call i64 (i64, ...) @syscall(i64 {number}, ptr %core, ptr null, ptr null)
  %narrow = load i32, ptr %core
  %wide = sext i32 %narrow to i64
  ret i64 %wide"""
_WAIT, _WAKE = 128, 129  # FUTEX_WAIT and FUTEX_WAKE, within this process

_TEXT = """
@cnnir.moment = internal constant [2 x i64] [i64 0, i64 {nanoseconds}]

; Sleep if *word is old, until roused or for no reason.
define internal void @cnnir.rest(ptr %word, i32 %old) nounwind noinline {{
  {rest}
  ret void
}}

; The same, for {moment} microseconds at most.
define internal void @cnnir.doze(ptr %word, i32 %old) nounwind noinline {{
  {doze}
  ret void
}}

define internal void @cnnir.rouse(ptr %word) nounwind noinline {{
  {rouse}
  ret void
}}

; Return once *word differs from old. The caller's last store must be visible before it waits.
define internal void @cnnir.wait(ptr %word, i32 %old, ptr %sleepers, i64 %spins) nounwind {{
entry:
  br label %round
round:
  %j = phi i64 [ 0, %entry ], [ %j1, %offer ]
  br label %spin
spin:
  %i = phi i64 [ 0, %round ], [ %i1, %again ]
  %v = load atomic i32, ptr %word acquire, align 4
  %same = icmp eq i32 %v, %old
  br i1 %same, label %patience, label %done
patience:
  %more = icmp ult i64 %i, %spins
  br i1 %more, label %again, label %tired
again:
  {pause}
  %i1 = add i64 %i, 1
  br label %spin
tired:
  %few = icmp ult i64 %j, {rounds}
  br i1 %few, label %offer, label %sleep
offer:
  %ignored = call i32 @sched_yield()
  %j1 = add i64 %j, 1
  br label %round
sleep:
  %before = atomicrmw add ptr %sleepers, i32 1 seq_cst
  call void @cnnir.rest(ptr %word, i32 %old)
  %after = atomicrmw sub ptr %sleepers, i32 1 seq_cst
  %w = load atomic i32, ptr %word acquire, align 4
  %asleep = icmp eq i32 %w, %old
  br i1 %asleep, label %sleep, label %done
done:
  ret void
}}

; After a seq_cst change of *word: wake those who sleep on it.
define internal void @cnnir.wake(ptr %word, ptr %sleepers) nounwind {{
entry:
  %n = load atomic i32, ptr %sleepers seq_cst, align 4
  %any = icmp ne i32 %n, 0
  br i1 %any, label %wake, label %done
wake:
  call void @cnnir.rouse(ptr %word)
  br label %done
done:
  ret void
}}

; The core this thread is on, -1 if unknown.
define internal i64 @cnnir.core() nounwind noinline {{
  {core}
}}

declare i32 @sched_yield()
{declarations}
"""


def pause(target: CpuTarget) -> tuple[str, str]:
    """The instruction that tells the core it is in a spin loop, and its declaration."""
    if target.x86:
        return "call void @llvm.x86.sse2.pause()", "declare void @llvm.x86.sse2.pause()"
    if target.triple.startswith(("aarch64", "arm64")):
        return "call void @llvm.aarch64.hint(i32 1)", "declare void @llvm.aarch64.hint(i32)"
    return "", ""


def wait_and_wake(target: CpuTarget) -> str:
    """The LLVM text of all functions."""
    pause_call, declarations = pause(target)
    architecture = target.triple.split("-")[0]
    if "windows" in target.triple:
        raise BackendError("the native runtime needs a POSIX system")
    if "linux" in target.triple and architecture in _FUTEX:
        call = f"call i64 (i64, ...) @syscall(i64 {_FUTEX[architecture]}, ptr %word, "
        rest = f"%slept = {call}i32 {_WAIT}, i32 %old, ptr null)"
        doze = f"%slept = {call}i32 {_WAIT}, i32 %old, ptr @cnnir.moment)"
        rouse = f"%woken = {call}i32 {_WAKE}, i32 {2**31 - 1})"
        core = _CORE.format(number=_GETCPU[architecture])
        declarations += "\ndeclare i64 @syscall(i64, ...)"
    else:
        rest = doze = f"%slept = call i32 @usleep(i32 {_NAP})"
        rouse, core = "", "ret i64 -1"
        declarations += "\ndeclare i32 @usleep(i32)"
    return _TEXT.format(
        pause=pause_call,
        rounds=ROUNDS,
        rest=rest,
        doze=doze,
        moment=_MOMENT,
        nanoseconds=_MOMENT * 1000,
        rouse=rouse,
        core=core,
        declarations=declarations,
    )
