/* Tool definitions and tool calls as prompt text (spec/chat.md section 5). */
#include "common/text/pyjson.h"
#include "controller/prompt/chat_impl.h"

#include <string.h>

static const char tools_head[] =
    "## Tools\n"
    "\n"
    "You have access to a set of tools to help answer the user's question. You can invoke tools by writing a "
    "\"<" CHAT_DSML "tool_calls>\" block like the following:\n"
    "\n"
    "<" CHAT_DSML "tool_calls>\n"
    "<" CHAT_DSML "invoke name=\"$TOOL_NAME\">\n"
    "<" CHAT_DSML "parameter name=\"$PARAMETER_NAME\" string=\"true|false\">$PARAMETER_VALUE</" CHAT_DSML
    "parameter>\n"
    "...\n"
    "</" CHAT_DSML "invoke>\n"
    "<" CHAT_DSML "invoke name=\"$TOOL_NAME2\">\n"
    "...\n"
    "</" CHAT_DSML "invoke>\n"
    "</" CHAT_DSML "tool_calls>\n"
    "\n"
    "String parameters should be specified as is and set `string=\"true\"`. For all other types (numbers, booleans, "
    "arrays, objects), pass the value in JSON format and set `string=\"false\"`.\n"
    "\n"
    "If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside "
    "<think>...</think> BEFORE any tool calls or final response.\n"
    "\n"
    "Otherwise, output directly after </think> with tool calls or final response.\n"
    "\n"
    "### Available Tool Schemas\n"
    "\n";

static const char tools_tail[] =
    "\n"
    "You MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n";

void chat__add_tools(struct chat_prompt *out, bool guard, const struct json *tools)
{
    buf_add_str(&out->text, tools_head);
    for (const struct json *t = tools->child; t; t = t->next) {
        chat__add_json(out, guard, json_get(t, "function"));
        buf_add_char(&out->text, '\n');
    }
    buf_add_str(&out->text, tools_tail);
}

/* ---- calls -------------------------------------------------------------------------------------------- */

static void open_param(struct chat_prompt *out, bool guard, const char *name, size_t n, bool string)
{
    buf_add_str(&out->text, "<" CHAT_DSML "parameter name=\"");
    chat__add_client(out, guard, name, n);
    buf_add_str(&out->text, string ? "\" string=\"true\">" : "\" string=\"false\">");
}

static void close_param(struct chat_prompt *out)
{
    buf_add_str(&out->text, "</" CHAT_DSML "parameter>");
}

static void add_param(struct chat_prompt *out, bool guard, const char *name, size_t n, const struct json *value)
{
    bool string = value->kind == JSON_STRING;

    open_param(out, guard, name, n, string);
    if (string)
        chat__add_client(out, guard, value->text, value->len);
    else
        chat__add_json(out, guard, value);
    close_param(out);
}

/* All members of the arguments, one a line. */
static void add_params(struct chat_prompt *out, bool guard, const struct json *object)
{
    for (const struct json *m = object->child; m; m = m->next) {
        add_param(out, guard, m->key, m->key_len, m);
        if (m->next)
            buf_add_char(&out->text, '\n');
    }
}

/* Arguments that are not the text of an object. Levels differ: what the official program does with an object or a
 * list is its accident (section 5), at level api rules stand in its place. */
static int add_arguments(struct chat_prompt *out, const struct chat_opts *o, const struct chat_msg *msg, size_t i,
                         struct arena *arena, struct chat_fault *fault)
{
    static const struct json null = {.kind = JSON_NULL};
    static const char whole[] = "arguments";
    const struct json *arguments = msg->call[i].arguments ? msg->call[i].arguments : &null;
    const struct json *parsed;

    if (o->api && arguments->kind == JSON_OBJECT) {
        add_params(out, o->api, arguments);
        return 0;
    }
    if (o->api && (arguments->kind == JSON_NULL || arguments->len == 0))
        return 0;
    if (arguments->kind == JSON_STRING && json_parse(arguments->text, arguments->len, 0, arena, &parsed, NULL) == 0) {
        if (parsed->kind == JSON_OBJECT) {
            add_params(out, o->api, parsed);
            return 0;
        }
        if (!o->api)
            return err_set(chat__at(fault, "messages[%u].tool_calls[%zu].function.arguments", msg->place, i), ERR_ARG,
                           "arguments hold %s instead of a JSON object", json_kind_name(parsed));
    }
    add_param(out, o->api, whole, sizeof whole - 1, arguments);
    return 0;
}

int chat__add_calls(struct chat_prompt *out, const struct chat_opts *o, const struct chat_msg *msg,
                    struct arena *arena, struct chat_fault *fault)
{
    if (msg->n_call == 0)
        return 0;
    buf_add_str(&out->text, "\n\n<" CHAT_DSML "tool_calls>\n");
    for (size_t i = 0; i < msg->n_call; i++) {
        buf_add_str(&out->text, "<" CHAT_DSML "invoke name=\"");
        chat__add_client(out, o->api, msg->call[i].name.p, msg->call[i].name.n);
        buf_add_str(&out->text, "\">\n");
        int rc = add_arguments(out, o, msg, i, arena, fault);
        if (rc)
            return rc;
        buf_add_str(&out->text, "\n</" CHAT_DSML "invoke>\n");
    }
    buf_add_str(&out->text, "</" CHAT_DSML "tool_calls>");
    return 0;
}
