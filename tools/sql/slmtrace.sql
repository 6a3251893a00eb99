-- Views, functions and macros over a timeline of slmtrace, for the query page of the Perfetto UI (v52 and newer) or
-- trace_processor: run this file first, then any query of queries/. Times are nanoseconds of the trace's clock.

-- What is explained: load, and one time to first token a request.
CREATE OR REPLACE PERFETTO VIEW slmtrace_window AS
SELECT
  id,
  ts,
  dur,
  replace(substr(name, 1, instr(name, ':') - 1), ' (first use)', '') AS label,
  extract_arg(arg_set_id, 'debug.request') AS request
FROM slice
WHERE category = 'window' AND depth = 0;

-- What held each window up: stretches that follow one another without a gap, and sum to the window's length.
CREATE OR REPLACE PERFETTO VIEW slmtrace_path AS
SELECT
  id,
  ts,
  dur,
  coalesce(extract_arg(arg_set_id, 'debug.window'), 'load') AS label,
  substr(name, 1, instr(name, ':') - 1) AS stage,
  extract_arg(arg_set_id, 'debug.phase') AS phase,
  substr(name, instr(name, ':') + 2) AS cause,
  extract_arg(arg_set_id, 'debug.on') AS thread,
  extract_arg(arg_set_id, 'debug.event') AS event,
  extract_arg(arg_set_id, 'debug.file') AS file
FROM slice
WHERE category = 'critical_path';

-- Slices with the names of their track, thread and process.
CREATE OR REPLACE PERFETTO VIEW slmtrace_slice AS
SELECT
  slice.id,
  slice.ts,
  slice.dur,
  slice.name,
  slice.category,
  slice.arg_set_id,
  track.name AS lane,
  thread.name AS thread,
  thread.tid AS tid,
  process.name AS process
FROM slice
JOIN track ON slice.track_id = track.id
LEFT JOIN thread_track ON slice.track_id = thread_track.id
LEFT JOIN thread USING (utid)
LEFT JOIN process USING (upid);

-- The time of a window by phase: slmtrace_phases('load'), slmtrace_phases('ttft 0').
CREATE OR REPLACE PERFETTO FUNCTION slmtrace_phases(label STRING)
RETURNS TABLE(phase STRING, ns LONG, percent DOUBLE) AS
SELECT
  phase,
  sum(dur) AS ns,
  round(100.0 * sum(dur) / (SELECT sum(dur) FROM slmtrace_path WHERE label = $label), 1) AS percent
FROM slmtrace_path
WHERE label = $label
GROUP BY phase
ORDER BY ns DESC;

-- The rows of a table with ts and dur that overlap a window, cut to it: slmtrace_within!(slice, 'ttft 0').
CREATE OR REPLACE PERFETTO MACRO slmtrace_within(events TableOrSubquery, label Expr)
RETURNS TableOrSubquery AS
(
  SELECT
    events.*,
    max(events.ts, window.ts) AS cut_ts,
    min(events.ts + events.dur, window.ts + window.dur) - max(events.ts, window.ts) AS cut_dur
  FROM $events AS events
  JOIN slmtrace_window AS window
    ON events.ts < window.ts + window.dur AND events.ts + events.dur > window.ts
  WHERE window.label = $label
);
