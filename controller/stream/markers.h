/* controller/stream/markers.h - the markup that the model's text may hold, and the search for it in a text that is
 * not complete yet.
 * Owns:     nothing.
 * Thread:   any (pure functions).
 * Source:   spec/chat.md section 7, rules 3-6 and 10.
 */
#ifndef CONTROLLER_STREAM_MARKERS_H
#define CONTROLLER_STREAM_MARKERS_H

#include <stddef.h>

/* Sets of markers are ORs of these. */
enum marker {
    MARK_THINK = 1 << 0,      /* <think> */
    MARK_THINK_END = 1 << 1,  /* </think> */
    MARK_BLOCK = 1 << 2,      /* <Dtool_calls> or V3.2's <Dfunction_calls> */
    MARK_INVOKE = 1 << 3,     /* <Dinvoke name=" */
    MARK_PARAM = 1 << 4,      /* <Dparameter name=" */
    MARK_BLOCK_END = 1 << 5,  /* </Dtool_calls>, </Dfunction_calls> */
    MARK_INVOKE_END = 1 << 6, /* </Dinvoke> */
    MARK_PARAM_END = 1 << 7,  /* </Dparameter> */

    /* Two newlines before MARK_BLOCK and MARK_INVOKE belong to the marker (rule 4). */
    MARK_NEWLINES = 1 << 8,
};

/* Bytes of the longest marker: nothing longer is ever held back as a possible one. */
enum { MARK_BYTES_MAX = 40 };

enum marker_found {
    MARK_NONE = 0,  /* no marker, and none can begin in the text: all of it may go out */
    MARK_MAYBE = 1, /* the text from *at to its end is a proper prefix of a marker of the set */
    MARK_FOUND = 2, /* the marker *which stands at *at and is *n bytes long */
};

/* Find the first place in text[0..len) where a marker of `set` stands or may be about to stand.
 *   at     out: bytes before it (len for MARK_NONE)
 *   which  out: the marker, for MARK_FOUND
 *   n      out: its length with the newlines that belong to it
 * O(len): at each '<' and newline a bounded number of bytes is compared. */
enum marker_found marker_find(const char *text, size_t len, int set, size_t *at, enum marker *which, size_t *n);

/* The same for a marker at the very beginning of text only (*at stays unset). */
enum marker_found marker_match(const char *text, size_t len, int set, enum marker *which, size_t *n);

/* text holds a whole "<D" or "</D": markup beyond doubt, so it is not given out as text when the generation ends
 * in the middle of it (rule 11). */
int marker_is_dsml(const char *text, size_t len);

#endif
