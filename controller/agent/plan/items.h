/* controller/agent/plan/items.h - the items of a map: a list, the lines of a JSONL file, or the files of a glob.
 * Owns:     nothing; the list lies in the caller's arena.
 * Thread:   any; blocks on the file system, so a big file belongs on the thread pool.
 * Limits:   ITEMS_MAX items, ITEMS_FILE_BYTES_MAX bytes of a JSONL file, ITEMS_PATTERN_MAX bytes of a pattern.
 */
#ifndef CONTROLLER_AGENT_PLAN_ITEMS_H
#define CONTROLLER_AGENT_PLAN_ITEMS_H

#include "controller/agent/plan/pipeline.h"

enum { ITEMS_MAX = 100000, ITEMS_FILE_BYTES_MAX = 256 << 20, ITEMS_PATTERN_MAX = 4096 };

/* Make the list of items.
 *   source  of the map
 *   value   its rendered `items`
 *   dir     where relative paths begin (the plan's)
 * OVER: value must be a list, it is the result. JSONL: the values of the lines, empty lines left out. FILES: for each
 * regular file that the pattern gives (glob(7): * ? [...]; no match is an empty list), sorted by bytes of the path, an
 * object {"path": as matched, relative to dir if the pattern is, "name": without folders, "stem": name without its last
 * ending}. Names that are no UTF-8 are refused.
 * 0 and *list; ERR_ARG (value of a wrong kind), ERR_MISSING (no such file), ERR_IO, ERR_FORMAT (line number in the
 * text), ERR_LIMIT. */
int items_make(enum pipeline_source source, const struct json *value, const char *dir, struct arena *arena,
               const struct json **list, struct err *err);

#endif
