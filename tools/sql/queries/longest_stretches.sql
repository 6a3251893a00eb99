-- The longest stretches of the critical path, with what they were spent on. Click an id to go there.
SELECT id, ts, dur, label, stage, phase || '.' || cause AS cause, thread, event, file
FROM slmtrace_path
ORDER BY dur DESC
LIMIT 20;
