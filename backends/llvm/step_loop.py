"""The loop over a program's rows, as LLVM text: serial, parallel, and both with time stamps.

Pasted by `program` into the module that holds the tables and the bodies they point to. A row of a
table is four words: body, items, first, last. `body(context, scratch, item)` does an item; rows
from first to last - 1 must be complete before any item of this one (earlier rows then are anyway).

Membership is elastic. Nobody arrives anywhere: a row is complete when its items are done, so a
thread that the system has put aside with no item in hand holds nobody up, and one that comes late
finds what is left. Each row has two words in the context, `taken` and `done`, both epoch + count,
where the epoch of a run is a multiple of 2**32 and differs from the one before by that. Seen from
a thread of epoch E the distance `word - E`, signed, is the count in this run; below 0 the word is
of an older run, which counts as 0; from 2**32 on the run is over and a newer one has begun, which
counts as all taken and all done. So nothing is ever reset, and a thread left in an old run walks
to the end of the table without touching anything.

A thread takes an item by raising `taken`, and tells `done` of all its items of a row at once, when
there are no more to take. Whoever waits spins a little, then sleeps on the word `event`, which
whoever completes a row changes if there are sleepers; the caller of a run also looks after workers
who make no progress (see `rescue`). The layout of the context is in `program`.
"""

from __future__ import annotations

from cnnir.backends.llvm.rescue import rescue
from cnnir.backends.llvm.sync import pause, wait_and_wake
from cnnir.backends.llvm.target import CpuTarget

ROWS = 256
"""Where the rows' words start in a context: 64 bytes a row, `taken` and 8 bytes on `done`."""

_CLOCK, _CLOCK_DARWIN = 1, 6  # CLOCK_MONOTONIC

_COMMON = """
define internal i64 @count(i64 %word, i64 %epoch) nounwind alwaysinline {{
  %distance = sub i64 %word, %epoch
  %older = icmp slt i64 %distance, 0
  %count = select i1 %older, i64 0, i64 %distance
  ret i64 %count
}}

define internal ptr @row(ptr %context, i64 %k) nounwind alwaysinline {{
  %bytes = shl i64 %k, 6
  %at = add i64 %bytes, {rows}
  %row = getelementptr i8, ptr %context, i64 %at
  ret ptr %row
}}

; The number of an item that is now this thread's; %items or more if none is left.
define internal i64 @take(ptr %taken, i64 %items, i64 %epoch) nounwind alwaysinline {{
entry:
  %first = load atomic i64, ptr %taken monotonic, align 8
  br label %try
try:
  %v = phi i64 [ %first, %entry ], [ %found, %claim ]
  %item = call i64 @count(i64 %v, i64 %epoch)
  %some = icmp slt i64 %item, %items
  br i1 %some, label %claim, label %done
claim:
  %item1 = add i64 %item, 1
  %next = add i64 %epoch, %item1
  %pair = cmpxchg ptr %taken, i64 %v, i64 %next monotonic monotonic
  %found = extractvalue {{ i64, i1 }} %pair, 0
  %success = extractvalue {{ i64, i1 }} %pair, 1
  br i1 %success, label %done, label %try
done:
  ret i64 %item
}}

; This thread has done %n > 0 items of the row.
define internal void @tell(ptr %context, ptr %done, i64 %items, i64 %epoch, i64 %n) nounwind {{
entry:
  %first = load atomic i64, ptr %done monotonic, align 8
  br label %try
try:
  %v = phi i64 [ %first, %entry ], [ %found, %try ]
  %before = call i64 @count(i64 %v, i64 %epoch)
  %now = add i64 %before, %n
  %next = add i64 %epoch, %now
  %pair = cmpxchg ptr %done, i64 %v, i64 %next seq_cst monotonic
  %found = extractvalue {{ i64, i1 }} %pair, 0
  %success = extractvalue {{ i64, i1 }} %pair, 1
  br i1 %success, label %told, label %try
told:
  %complete = icmp eq i64 %now, %items
  br i1 %complete, label %look, label %over
look:
  %sleepers = getelementptr i8, ptr %context, i64 132
  %asleep = load atomic i32, ptr %sleepers seq_cst, align 4
  %any = icmp ne i32 %asleep, 0
  br i1 %any, label %wake, label %over
wake:
  %event = getelementptr i8, ptr %context, i64 128
  %old = atomicrmw add ptr %event, i32 1 seq_cst
  call void @cnnir.rouse(ptr %event)
  br label %over
over:
  ret void
}}

; Return once the row is complete. A sleeper counts itself, then reads `event`, then `done`; whoever
; completes the row changes them in the other order: so it sees the sleeper, or the sleeper sees it.
; The caller of a run, who has %others, looks after them in between.
define internal void @await(ptr %context, ptr %done, i64 %items, i64 %epoch, i64 %others)
    nounwind {{
entry:
  %team.p = getelementptr i8, ptr %context, i64 72
  %team = load ptr, ptr %team.p
  %alone = icmp eq i64 %others, 0
  %scattered = icmp eq ptr %team, null
  %careless = or i1 %alone, %scattered
  %event = getelementptr i8, ptr %context, i64 128
  %sleepers = getelementptr i8, ptr %context, i64 132
  %spins.p = getelementptr i8, ptr %context, i64 24
  %spins = load i64, ptr %spins.p
  br label %spin
spin:
  %i = phi i64 [ 0, %entry ], [ %i1, %again ], [ 0, %up ], [ 0, %first ]
  %calm = phi i1 [ %careless, %entry ], [ %calm, %again ], [ true, %up ], [ true, %first ]
  %v = load atomic i64, ptr %done acquire, align 8
  %n = call i64 @count(i64 %v, i64 %epoch)
  %wait = icmp slt i64 %n, %items
  br i1 %wait, label %patience, label %over
patience:
  %more = icmp ult i64 %i, %spins
  br i1 %more, label %again, label %restless
again:
  {pause}
  %i1 = add i64 %i, 1
  br label %spin
restless:
  br i1 %calm, label %tired, label %first
first:
  call void @cnnir.tend(ptr %team, i64 %others)
  br label %spin
tired:
  %before = atomicrmw add ptr %sleepers, i32 1 seq_cst
  %now = load atomic i32, ptr %event seq_cst, align 4
  %w = load atomic i64, ptr %done seq_cst, align 8
  %m = call i64 @count(i64 %w, i64 %epoch)
  %still = icmp slt i64 %m, %items
  br i1 %still, label %choose, label %up
choose:
  br i1 %careless, label %sleep, label %care
sleep:
  call void @cnnir.rest(ptr %event, i32 %now)
  br label %up
care:
  call void @cnnir.tend(ptr %team, i64 %others)
  call void @cnnir.doze(ptr %event, i32 %now)
  br label %up
up:
  %after = atomicrmw sub ptr %sleepers, i32 1 seq_cst
  br label %spin
over:
  ret void
}}

define internal void @await.rows(ptr %context, ptr %table, i64 %first, i64 %last, i64 %epoch,
    i64 %others) nounwind alwaysinline {{
entry:
  br label %test
test:
  %k = phi i64 [ %first, %entry ], [ %k1, %next ]
  %more = icmp ult i64 %k, %last
  br i1 %more, label %look, label %over
look:
  %items.p = getelementptr [4 x i64], ptr %table, i64 %k, i64 1
  %items = load i64, ptr %items.p
  %row = call ptr @row(ptr %context, i64 %k)
  %done = getelementptr i8, ptr %row, i64 8
  %v = load atomic i64, ptr %done acquire, align 8
  %n = call i64 @count(i64 %v, i64 %epoch)
  %wait = icmp slt i64 %n, %items
  br i1 %wait, label %slow, label %next
slow:
  call void @await(ptr %context, ptr %done, i64 %items, i64 %epoch, i64 %others)
  br label %next
next:
  %k1 = add i64 %k, 1
  br label %test
over:
  ret void
}}

define internal ptr @scratch(ptr %context, i64 %thread, i64 %stride) nounwind {{
  %scratch.p = getelementptr i8, ptr %context, i64 16
  %base = load ptr, ptr %scratch.p
  %offset = mul i64 %thread, %stride
  %mine = getelementptr i8, ptr %base, i64 %offset
  ret ptr %mine
}}
"""

_LOOPS = """
define void @{name}(ptr %context, i64 %thread, i64 %threads, i64 %epoch) nounwind {{
  %alone = icmp eq i64 %threads, 1
  br i1 %alone, label %serial, label %parallel
serial:
  call void @{name}.serial(ptr %context, i64 0)
  ret void
parallel:
  %others = sub i64 %threads, 1
  %caller = icmp eq i64 %thread, 0
  %mine = select i1 %caller, i64 %others, i64 0
  call void @{name}.parallel(ptr %context, i64 %thread, i64 %epoch, i64 %mine)
  ret void
}}

define void @{name}_alone(ptr %context) nounwind {{
  call void @{name}.serial(ptr %context, i64 0)
  ret void
}}

define internal void @{name}.serial(ptr %context, i64 %thread) nounwind {{
entry:
  %scratch = call ptr @scratch(ptr %context, i64 0, i64 {scratch})
  br label %step
step:
  %k = phi i64 [ 0, %entry ], [ %k1, %next ]
  %within = icmp ult i64 %k, {rows}
  br i1 %within, label %look, label %done
look:
  {stamp}
  %entry.p = getelementptr [4 x i64], ptr @{table}, i64 %k
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
  {stamp}
  ret void
}}

define internal void @{name}.parallel(ptr %context, i64 %thread, i64 %epoch, i64 %others)
    nounwind {{
entry:
  %team.p = getelementptr i8, ptr %context, i64 72
  %team = load ptr, ptr %team.p
  %careless = icmp eq ptr %team, null
  %caller = icmp eq i64 %thread, 0
  %stays = or i1 %caller, %careless
  %scratch = call ptr @scratch(ptr %context, i64 %thread, i64 {scratch})
  br label %step
step:
  %k = phi i64 [ 0, %entry ], [ %k1, %next ]
  %within = icmp ult i64 %k, {rows}
  br i1 %within, label %look, label %end
look:
  %entry.p = getelementptr [4 x i64], ptr @{table}, i64 %k
  %body = load ptr, ptr %entry.p
  %items.p = getelementptr i64, ptr %entry.p, i64 1
  %items = load i64, ptr %items.p
  %first.p = getelementptr i64, ptr %entry.p, i64 2
  %first = load i64, ptr %first.p
  %last.p = getelementptr i64, ptr %entry.p, i64 3
  %last = load i64, ptr %last.p
  call void @await.rows(ptr %context, ptr @{table}, i64 %first, i64 %last, i64 %epoch,
    i64 %others)
  {stamp}
  %row = call ptr @row(ptr %context, i64 %k)
  br label %take
take:
  %n = phi i64 [ 0, %look ], [ %n1, %work ]
  %item = call i64 @take(ptr %row, i64 %items, i64 %epoch)
  %some = icmp slt i64 %item, %items
  br i1 %some, label %work, label %finish
work:
  call void %body(ptr %context, ptr %scratch, i64 %item)
  %n1 = add i64 %n, 1
  br label %take
finish:
  %worked = icmp ne i64 %n, 0
  br i1 %worked, label %tell, label %next
tell:
  %done.p = getelementptr i8, ptr %row, i64 8
  call void @tell(ptr %context, ptr %done.p, i64 %items, i64 %epoch, i64 %n)
  br i1 %stays, label %next, label %free
free:
  call void @cnnir.return(ptr %team, i64 %thread)
  br label %next
next:
  %k1 = add i64 %k, 1
  br label %step
end:
  br i1 %caller, label %collect, label %leave
collect:
  call void @await.rows(ptr %context, ptr @{table}, i64 {waited}, i64 {rows}, i64 %epoch,
    i64 %others)
  {stamp}
  br label %leave
leave:
  ret void
}}
"""

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


def common(target: CpuTarget) -> str:
    """Text of what every loop needs."""
    clock = _CLOCK_DARWIN if "darwin" in target.triple else _CLOCK
    pause_call, _ = pause(target)
    return "\n".join(
        [
            wait_and_wake(target),
            rescue(target),
            _COMMON.format(rows=ROWS, pause=pause_call),
            _STAMP.format(clock=clock),
        ]
    )


def loop(name: str, table: str, rows: int, waited: int, scratch: int, stamps: bool) -> str:
    """Text of `@name(context, thread, threads, epoch)`, which runs a table.

    `@name_alone(context)` is the same for one thread.

    waited: every thread that is through the table has waited for the rows before this one.
    scratch: bytes a thread. stamps: thread 0 writes the time before each row and at the end.
    """
    stamp = "call void @stamp(ptr %context, i64 %thread, i64 %k)" if stamps else ""
    return _LOOPS.format(
        name=name, table=table, rows=rows, waited=waited, scratch=scratch, stamp=stamp
    )
