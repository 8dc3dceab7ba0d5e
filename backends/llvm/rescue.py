"""Fetching a worker that the system has put aside with an item in hand, as LLVM text (Linux).

Beside another busy program a worker may lose its core for a whole time slice, some milliseconds,
and the caller of a run then waits for an item of microseconds. So a caller that has waited for a
while looks at the processor time of its workers: one that makes no progress is let onto the
caller's own core, which is idle while the caller sleeps; it finishes its item there and then leaves
for the cores that workers keep to (see `cores`). Elsewhere than on Linux these functions are empty.

Pasted by `threads` and `step_loop`. A team is the memory of the pool: a slot a worker, in which 72
is its native thread number (i32), 76 whether it has been fetched (i32) and 80 its processor time
when last looked at (i64); slot 0 is the set of cores that workers keep to, as a bit mask.
"""

from __future__ import annotations

from cnnir.backends.llvm.target import CpuTarget

SLOT = 128
"""Bytes of a worker's slot, and of a mask of cores."""

_SET_AFFINITY = {"x86_64": 203, "aarch64": 122, "riscv64": 122}  # number of the system call

_TEXT = """
; Nanoseconds of processor time that a thread of this process has had.
define internal i64 @cnnir.worked(i32 %thread) nounwind noinline {{
  %time = alloca [2 x i64]
  store [2 x i64] zeroinitializer, ptr %time
  %not = xor i32 %thread, -1
  %shifted = shl i32 %not, 3
  %clock = or i32 %shifted, 6
  %ignored = call i32 @clock_gettime(i32 %clock, ptr %time)
  %s = load i64, ptr %time
  %ns.p = getelementptr i64, ptr %time, i64 1
  %ns = load i64, ptr %ns.p
  %scaled = mul i64 %s, 1000000000
  %total = add i64 %scaled, %ns
  ret i64 %total
}}

; Fetch the workers 1 to %others of a team that are inside a job and have not run since last looked
; at. The caller sleeps next.
define internal void @cnnir.tend(ptr %team, i64 %others) nounwind noinline {{
entry:
  %mask = alloca [{words} x i64]
  store [{words} x i64] zeroinitializer, ptr %mask
  %core = call i64 @cnnir.core()
  %known = icmp ult i64 %core, {bits}
  br i1 %known, label %set, label %over
set:
  %word = lshr i64 %core, 6
  %bit = and i64 %core, 63
  %one = shl i64 1, %bit
  %word.p = getelementptr i64, ptr %mask, i64 %word
  store i64 %one, ptr %word.p
  br label %worker
worker:
  %i = phi i64 [ 1, %set ], [ %i1, %next ]
  %offset = mul i64 %i, {slot}
  %slot.p = getelementptr i8, ptr %team, i64 %offset
  %inside.p = getelementptr i8, ptr %slot.p, i64 68
  %thread.p = getelementptr i8, ptr %slot.p, i64 72
  %fetched.p = getelementptr i8, ptr %slot.p, i64 76
  %seen.p = getelementptr i8, ptr %slot.p, i64 80
  %inside = load atomic i32, ptr %inside.p seq_cst, align 4
  %thread = load atomic i32, ptr %thread.p monotonic, align 4
  %seen = load i64, ptr %seen.p
  %worked = call i64 @cnnir.worked(i32 %thread)
  store i64 %worked, ptr %seen.p
  %rests = icmp eq i64 %worked, %seen
  %busy = icmp ne i32 %inside, 0
  %stuck = and i1 %rests, %busy
  br i1 %stuck, label %fetch, label %next
fetch:
  store atomic i32 1, ptr %fetched.p seq_cst, align 4
  %moved = call i64 (i64, ...) @syscall(i64 {number}, i32 %thread, i64 {slot}, ptr %mask)
  br label %next
next:
  %i1 = add i64 %i, 1
  %more = icmp ule i64 %i1, %others
  br i1 %more, label %worker, label %over
over:
  ret void
}}

; Called by worker %thread when it has no item in hand: back to where it was fetched from.
define internal void @cnnir.return(ptr %team, i64 %thread) nounwind {{
entry:
  %offset = mul i64 %thread, {slot}
  %slot.p = getelementptr i8, ptr %team, i64 %offset
  %fetched.p = getelementptr i8, ptr %slot.p, i64 76
  %fetched = load atomic i32, ptr %fetched.p monotonic, align 4
  %away = icmp ne i32 %fetched, 0
  br i1 %away, label %leave, label %over
leave:
  store atomic i32 0, ptr %fetched.p seq_cst, align 4
  %moved = call i64 (i64, ...) @syscall(i64 {number}, i32 0, i64 {slot}, ptr %team)
  br label %over
over:
  ret void
}}
"""

_NOTHING = """
define internal void @cnnir.tend(ptr %team, i64 %others) nounwind {
  ret void
}

define internal void @cnnir.return(ptr %team, i64 %thread) nounwind {
  ret void
}
"""


def rescue(target: CpuTarget) -> str:
    """The text of `@cnnir.tend` and `@cnnir.return`; needs that of `sync` and clock_gettime."""
    architecture = target.triple.split("-")[0]
    if "linux" not in target.triple or architecture not in _SET_AFFINITY:
        return _NOTHING
    number = _SET_AFFINITY[architecture]
    return _TEXT.format(number=number, slot=SLOT, words=SLOT // 8, bits=SLOT * 8)
