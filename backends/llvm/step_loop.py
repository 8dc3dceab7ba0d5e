"""The loop over a program's steps, as LLVM text: serial, parallel, and with time stamps.

Pasted by `program` into the module that holds the table `@steps` and the bodies it points to. A
row of the table is eight words: body, items, owner, counter, barrier, first, last, unused; `body`
is called as `body(context, scratch, item)`. The layout of the context is told in `program`.
"""

from __future__ import annotations

from cnnir.backends.llvm.sync import wait_and_wake
from cnnir.backends.llvm.target import CpuTarget

COUNTERS = 256
"""Where the counters start in a context; they are 64 bytes apart."""

_CLOCK, _CLOCK_DARWIN = 1, 6  # CLOCK_MONOTONIC

_COMMON = """
define internal void @reset(ptr %context, i64 %first, i64 %last) nounwind {{
entry:
  br label %test
test:
  %i = phi i64 [ %first, %entry ], [ %i1, %clear ]
  %more = icmp ult i64 %i, %last
  br i1 %more, label %clear, label %done
clear:
  %bytes = shl i64 %i, 6
  %at = add i64 %bytes, {counters}
  %counter = getelementptr i8, ptr %context, i64 %at
  store atomic i64 0, ptr %counter monotonic, align 8
  %i1 = add i64 %i, 1
  br label %test
done:
  ret void
}}

define internal void @barrier(ptr %context, i64 %threads, i64 %first, i64 %last) nounwind {{
entry:
  %arrived = getelementptr i8, ptr %context, i64 64
  %sleepers = getelementptr i8, ptr %context, i64 72
  %generation = getelementptr i8, ptr %context, i64 128
  %now = load atomic i32, ptr %generation acquire, align 4
  %before = atomicrmw add ptr %arrived, i64 1 acq_rel
  %count = add i64 %before, 1
  %all = icmp eq i64 %count, %threads
  br i1 %all, label %open, label %wait
open:
  call void @reset(ptr %context, i64 %first, i64 %last)
  store atomic i64 0, ptr %arrived monotonic, align 8
  %old = atomicrmw add ptr %generation, i32 1 seq_cst
  call void @cnnir.wake(ptr %generation, ptr %sleepers)
  ret void
wait:
  %spins.p = getelementptr i8, ptr %context, i64 24
  %spins = load i64, ptr %spins.p
  call void @cnnir.wait(ptr %generation, i32 %now, ptr %sleepers, i64 %spins)
  ret void
}}

define internal ptr @scratch(ptr %context, i64 %thread, i64 %stride) nounwind {{
  %scratch.p = getelementptr i8, ptr %context, i64 16
  %base = load ptr, ptr %scratch.p
  %offset = mul i64 %thread, %stride
  %mine = getelementptr i8, ptr %base, i64 %offset
  ret ptr %mine
}}

define void @run(ptr %context, i64 %thread, i64 %threads) nounwind {{
  %alone = icmp eq i64 %threads, 1
  br i1 %alone, label %serial, label %parallel
serial:
  call void @run.serial(ptr %context)
  ret void
parallel:
  call void @run.parallel(ptr %context, i64 %thread, i64 %threads)
  ret void
}}
"""

_SERIAL = """
define internal void @run.serial(ptr %context) nounwind {{
entry:
  %scratch = call ptr @scratch(ptr %context, i64 0, i64 {scratch})
  br label %step
step:
  %k = phi i64 [ 0, %entry ], [ %k1, %next ]
  %within = icmp ult i64 %k, {steps}
  br i1 %within, label %look, label %done
look:
  %entry.p = getelementptr [8 x i64], ptr @steps, i64 %k
  %body = load ptr, ptr %entry.p
  %items.p = getelementptr i64, ptr %entry.p, i64 1
  %items = load i64, ptr %items.p
  br label %test
test:
  %item = phi i64 [ 0, %look ], [ %item1, %work ]
  %more = icmp ult i64 %item, %items
  br i1 %more, label %work, label %next
work:
  call void %body(ptr %context, ptr %scratch, i64 %item)
  %item1 = add i64 %item, 1
  br label %test
next:
  %k1 = add i64 %k, 1
  br label %step
done:
  ret void
}}
"""

_PARALLEL = """
define {linkage} void @{name}(ptr %context, i64 %thread, i64 %threads) nounwind {{
entry:
  %scratch = call ptr @scratch(ptr %context, i64 %thread, i64 {scratch})
  br label %step
step:
  %k = phi i64 [ 0, %entry ], [ %k1, %next ]
  %within = icmp ult i64 %k, {steps}
  br i1 %within, label %look, label %leave
look:
  %entry.p = getelementptr [8 x i64], ptr @steps, i64 %k
  %body = load ptr, ptr %entry.p
  %items.p = getelementptr i64, ptr %entry.p, i64 1
  %items = load i64, ptr %items.p
  %owner.p = getelementptr i64, ptr %entry.p, i64 2
  %owner = load i64, ptr %owner.p
  %barrier.p = getelementptr i64, ptr %entry.p, i64 4
  %wanted = load i64, ptr %barrier.p
  %meet = icmp ne i64 %wanted, {never}
  br i1 %meet, label %barrier, label %begin
barrier:
  %first.p = getelementptr i64, ptr %entry.p, i64 5
  %first = load i64, ptr %first.p
  %last.p = getelementptr i64, ptr %entry.p, i64 6
  %last = load i64, ptr %last.p
  call void @barrier(ptr %context, i64 %threads, i64 %first, i64 %last)
  br label %begin
begin:
  {stamp}
  %shared = icmp slt i64 %owner, 0
  br i1 %shared, label %share, label %single
single:
  %turn = urem i64 %owner, %threads
  %mine = icmp eq i64 %turn, %thread
  br i1 %mine, label %only, label %next
only:
  call void %body(ptr %context, ptr %scratch, i64 0)
  br label %next
share:
  %counter.p = getelementptr i64, ptr %entry.p, i64 3
  %counter.at = load i64, ptr %counter.p
  %counter = getelementptr i8, ptr %context, i64 %counter.at
  br label %take
take:
  %item = atomicrmw add ptr %counter, i64 1 monotonic
  %more = icmp ult i64 %item, %items
  br i1 %more, label %work, label %next
work:
  call void %body(ptr %context, ptr %scratch, i64 %item)
  br label %take
next:
  %k1 = add i64 %k, 1
  br label %step
leave:
  {end}
  %left = getelementptr i8, ptr %context, i64 192
  %before = atomicrmw add ptr %left, i64 1 acq_rel
  %count = add i64 %before, 1
  %all = icmp eq i64 %count, %threads
  br i1 %all, label %close, label %done
close:
  call void @reset(ptr %context, i64 {first}, i64 {last})
  store atomic i64 0, ptr %left release, align 8
  br label %done
done:
  ret void
}}
"""

_PLAIN = {"name": "run.parallel", "linkage": "internal", "never": 0, "stamp": "", "end": ""}

_STAMP = """
declare i32 @clock_gettime(i32, ptr)
define internal void @stamp(ptr %context, i64 %thread, i64 %k) nounwind {{
  %time = alloca [2 x i64]
  %mine = icmp eq i64 %thread, 0
  br i1 %mine, label %write, label %done
write:
  %ignored = call i32 @clock_gettime(i32 {clock}, ptr %time)
  %s = load i64, ptr %time
  %ns.p = getelementptr i64, ptr %time, i64 1
  %ns = load i64, ptr %ns.p
  %scaled = mul i64 %s, 1000000000
  %total = add i64 %scaled, %ns
  %profile.p = getelementptr i8, ptr %context, i64 56
  %profile = load ptr, ptr %profile.p
  %slot = getelementptr i64, ptr %profile, i64 %k
  store i64 %total, ptr %slot
  br label %done
done:
  ret void
}}
"""


def loops(target: CpuTarget, steps: int, scratch: int, first: int, last: int) -> str:
    """Text of `@run` and `@run_profiled` and of all they call but the bodies.

    scratch: bytes a thread; first, last: the counters that no barrier resets.
    """
    values = {"steps": steps, "scratch": scratch, "first": first, "last": last}
    profiled = {
        "name": "run_profiled",
        "linkage": "",
        "never": -1,  # a barrier before every step, so that times are those of all threads
        "stamp": "call void @stamp(ptr %context, i64 %thread, i64 %k)",
        "end": "call void @barrier(ptr %context, i64 %threads, i64 0, i64 0)\n"
        f"  call void @stamp(ptr %context, i64 %thread, i64 {steps})",
    }
    return "\n".join(
        [
            wait_and_wake(target),
            _COMMON.format(counters=COUNTERS),
            _SERIAL.format(**values),
            _PARALLEL.format(**values, **_PLAIN),
            _STAMP.format(clock=_CLOCK_DARWIN if "darwin" in target.triple else _CLOCK),
            _PARALLEL.format(**values, **profiled),
        ]
    )
