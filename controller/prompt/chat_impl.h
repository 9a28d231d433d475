/* controller/prompt/chat_impl.h - what the files of the chat encoding share: messages as plain data.
 * Owns:     nothing; everything lies in an arena that lives for one rendering, texts point into the request.
 * Thread:   one at a time.
 *
 * The way of a request: chat_api.c (with chat_fields.c) or chat_encoder.c reads JSON into struct chat_msg;
 * chat_merge.c makes tool results part of user messages; chat_encode.c writes the prompt, with the texts of
 * chat_tools.c for definitions and calls.
 */
#ifndef CONTROLLER_PROMPT_CHAT_IMPL_H
#define CONTROLLER_PROMPT_CHAT_IMPL_H

#include "common/mem/arena.h"
#include "controller/prompt/chat.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Special tokens by their text; ids are looked up by the tokenizer (spec/chat.md, first lines). */
#define CHAT_BOS       "<｜begin▁of▁sentence｜>"
#define CHAT_EOS       "<｜end▁of▁sentence｜>"
#define CHAT_USER_TOK  "<｜User｜>"
#define CHAT_ASST_TOK  "<｜Assistant｜>"
#define CHAT_THINK     "<think>"
#define CHAT_THINK_END "</think>"
#define CHAT_DSML      "｜DSML｜"

enum chat_role { CHAT_SYSTEM, CHAT_DEVELOPER, CHAT_USER, CHAT_ASSISTANT, CHAT_TOOL, CHAT_REMINDER, CHAT_OTHER };

enum chat_effort { CHAT_EFFORT_NONE, CHAT_EFFORT_LOW, CHAT_EFFORT_HIGH, CHAT_EFFORT_MAX };

struct chat_text {
    const char *p;
    size_t n;
};

/* A part of a user message: its text, or a tool result. */
struct chat_block {
    bool result;
    struct chat_text text;
    struct chat_text id; /* of the call that a result answers */
};

struct chat_call {
    struct chat_text id, name;
    const struct json *arguments; /* NULL: none were given */
};

struct chat_msg {
    enum chat_role role;
    uint32_t place;  /* index in the request, for faults */
    bool is_context; /* is not rendered */
    bool wo_eos;
    struct chat_text content, reasoning;
    struct chat_text id;   /* role tool: the call it answers */
    struct chat_text task; /* p NULL: none */
    const struct json *tools;           /* non-empty array, or NULL */
    const struct json *response_format; /* or NULL */
    struct chat_call *call;
    size_t n_call;
    struct chat_block *block; /* role user, after merging */
    size_t n_block;
};

struct chat_list {
    struct chat_msg *msg;
    size_t n;
};

struct chat_opts {
    enum chat_profile profile;
    bool api; /* guard spans, and the rules of section 8 where they differ from the official encoder */
    bool thinking, drop_thinking, add_bos;
    enum chat_effort effort;
};

/* ---- faults (chat.c) ---------------------------------------------------------------------------------- */

/* Name the place of an error, as in chat__at(fault, "messages[%u].role", i); returns where its text goes, for
 * err_set(chat__at(...), ERR_ARG, ...). */
struct err *chat__at(struct chat_fault *fault, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Text of strangers for an error line: at most CHAT_SHOWN_MAX bytes, printable ASCII. Returns out. */
enum { CHAT_SHOWN_MAX = 40 };
const char *chat__shown(const struct json *j, char out[CHAT_SHOWN_MAX + 4]);

/* ---- reading (chat_fields.c) -------------------------------------------------------------------------- */

/* A JSON string as text; the empty text for NULL and null. */
struct chat_text chat__text(const struct json *j);

static inline bool chat__is_absent(const struct json *j)
{
    return !j || j->kind == JSON_NULL;
}

/* The array `messages` (or `name`) of obj, checked for kind and length. */
int chat__read_list(const struct json *obj, const char *name, const struct json **list, struct chat_fault *fault);

/* content: string, null, or a list of parts. allow_null: null and absence are "". lenient: parts that are no text
 * become "[Unsupported type]" (tool results of the official encoder) instead of a fault. */
struct chat_content_rule {
    bool allow_null, allow_refusal, lenient;
};
int chat__read_content(const struct json *msg, struct chat_content_rule rule, const char *where, struct arena *arena,
                       struct chat_text *text, struct chat_fault *fault);

/* tool_calls of an assistant message. */
int chat__read_calls(const struct json *msg, const char *where, bool api, struct arena *arena, struct chat_msg *out,
                     struct chat_fault *fault);

/* `tools`: an array of {"type": "function", "function": {"name", ...}}. *tools is NULL for none. */
int chat__read_tools(const struct json *obj, const char *where, const struct json **tools, struct chat_fault *fault);

/* ---- the request beside its messages (chat_options.c) -------------------------------------------------- */

/* thinking, reasoning_effort, chat_template_kwargs -> o->thinking, o->effort. */
int chat__read_thinking(const struct json *request, struct chat_opts *o, struct chat_fault *fault);

/* tools and tool_choice, both checked. *tools: what is rendered, NULL for nothing. */
int chat__read_tool_choice(const struct json *request, const struct json **tools, struct chat_fault *fault);

/* response_format. *schema: what the prompt has to say, NULL for nothing. */
int chat__read_response_format(const struct json *request, const struct json **schema, struct chat_fault *fault);

/* ---- merging (chat_merge.c) --------------------------------------------------------------------------- */

/* Append `in` to `out` with tool messages and neighbouring user messages made blocks of user messages; out has room
 * for all of them. Messages are merged with messages of the same call only. */
void chat__merge(const struct chat_list *in, struct arena *arena, struct chat_list *out);

/* Put the results in each user message into the order of the calls they answer. */
void chat__sort_results(struct chat_list *list, struct arena *arena);

/* ---- writing ------------------------------------------------------------------------------------------ */

/* Append text of the client: at level api no added token may start in it. (chat_encode.c) */
void chat__add_client(struct chat_prompt *out, bool guard, const char *text, size_t n);

/* json(j) as client text. (chat_encode.c) */
void chat__add_json(struct chat_prompt *out, bool guard, const struct json *j);

/* The text of tool definitions, with one newline at its end. (chat_tools.c) */
void chat__add_tools(struct chat_prompt *out, bool guard, const struct json *tools);

/* "\n\n<Dtool_calls>...": the calls of an assistant message. ERR_ARG where the official program crashes, at level
 * encoder only. (chat_tools.c) */
int chat__add_calls(struct chat_prompt *out, const struct chat_opts *o, const struct chat_msg *msg, struct arena *arena,
                    struct chat_fault *fault);

/* Merge, sort, drop and render. (chat_encode.c) */
int chat__encode(const struct chat_list *context, const struct chat_list *messages, const struct chat_opts *o,
                 struct arena *arena, struct chat_prompt *out, struct chat_fault *fault);

#endif
