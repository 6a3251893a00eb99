-- Modules by the time of their import, without that of the imports inside.
SELECT
  parent.name AS module,
  parent.dur AS total_ns,
  parent.dur - coalesce(sum(child.dur), 0) AS own_ns
FROM slice AS parent
LEFT JOIN slice AS child ON child.parent_id = parent.id
WHERE parent.name GLOB 'import *'
GROUP BY parent.id
ORDER BY own_ns DESC
LIMIT 20;
