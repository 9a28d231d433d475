/* controller/agent/plan/schema.h - JSON Schema (a part of draft 2020-12): read once, check many values.
 * Owns:     struct schema its nodes and compiled patterns; names and values in it point into the source.
 * Lifetime: schema_parse .. schema_destroy; the source tree must stay as long.
 * Thread:   any, once parsed; a schema is never changed.
 * Limits:   SCHEMA_NODES_MAX, SCHEMA_DEPTH_MAX (of a schema in a schema, of $ref to $ref), SCHEMA_PATTERN_MAX,
 *           SCHEMA_STEPS_MAX node visits of one check, SCHEMA_FAULTS_MAX faults reported.
 *
 * Keywords: type, enum, const, properties, required, additionalProperties, propertyNames, minProperties,
 * maxProperties, items, prefixItems, minItems, maxItems, uniqueItems, minLength, maxLength, pattern (PCRE2, UTF),
 * minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf, anyOf, oneOf, allOf, not, $defs (definitions),
 * $ref ("#" and "#/..." pointers). Ignored, as the draft has them say nothing: title, description, default, examples,
 * format, deprecated, readOnly, writeOnly, $comment, $schema, $id. Any other keyword is refused by name: a rule that is
 * silently not kept is worse than none.
 * The nodes are public: a grammar compiler reads them.
 */
#ifndef CONTROLLER_AGENT_PLAN_SCHEMA_H
#define CONTROLLER_AGENT_PLAN_SCHEMA_H

#include "common/text/json.h"

enum {
    SCHEMA_NODES_MAX = 10000,
    SCHEMA_DEPTH_MAX = 32,
    SCHEMA_PATTERN_MAX = 1024,
    SCHEMA_PROPERTIES_MAX = 1024,
    SCHEMA_STEPS_MAX = 1000000,
    SCHEMA_FAULTS_MAX = 16,
};

enum schema_type {
    SCHEMA_null = 1 << 0,
    SCHEMA_boolean = 1 << 1,
    SCHEMA_integer = 1 << 2,
    SCHEMA_number = 1 << 3, /* always together with integer */
    SCHEMA_string = 1 << 4,
    SCHEMA_array = 1 << 5,
    SCHEMA_object = 1 << 6,
    SCHEMA_any = (1 << 7) - 1,
};

struct schema_node;

struct schema_property {
    const char *name;
    size_t name_len;
    const struct schema_node *node; /* NULL: only required */
    bool required;
};

struct schema_list {
    const struct schema_node **node; /* [n] */
    int n;
};

/* One schema. Members that a schema does not have are zero, NULL, or as said. */
struct schema_node {
    const struct json *source; /* for error texts; the node's place in the schema */
    bool is_never;             /* the schema `false` */
    unsigned types;            /* set of schema_type; SCHEMA_any when there is no `type` */
    const struct json *one_of_values; /* enum: the array */
    const struct json *only_value;    /* const */
    struct schema_property *property; /* [n_property] */
    int n_property;
    const struct schema_node *additional;     /* additionalProperties, NULL: anything */
    const struct schema_node *property_names; /* propertyNames */
    const struct schema_node *items;          /* behind prefixItems, NULL: anything */
    struct schema_list prefix_items, any_of, one_of, all_of;
    const struct schema_node *not_node;
    const struct schema_node *ref; /* $ref, resolved; may form cycles */
    int64_t min_length, max_length, min_items, max_items, min_properties, max_properties; /* -1: none */
    bool unique_items;
    const struct json *minimum, *maximum, *above, *below; /* above: exclusiveMinimum, below: exclusiveMaximum */
    const struct json *multiple_of;
    const char *pattern; /* its source, as JSON has it */
    void *pattern_code;  /* pcre2_code */
    int height;          /* schemas that one value passes through from here, at most; the parser's own */
};

struct schema;

/* Read a schema. 0 and *out (yours); ERR_FORMAT (a keyword has a wrong value), ERR_UNSUPPORTED (a keyword by name),
 * ERR_MISSING ($ref to nowhere), ERR_LIMIT. The text names the place ("properties.total.type: ..."); *where (may be
 * NULL) is the node of `source` at fault. */
int schema_parse(const struct json *source, struct schema **out, const struct json **where, struct err *err);
void schema_destroy(struct schema **s);

const struct schema_node *schema_root(const struct schema *s);
const struct json *schema_source(const struct schema *s);

/* Check a value. 0: it fits. Else the number of faults found (at most SCHEMA_FAULTS_MAX), with one line
 * "path: reason\n" each added to report (may be NULL): "/rows/3/total: must be a number, is the string "12,50"".
 * Paths are JSON pointers; the whole value is "(root)". The report is written for a model to repair its answer by. */
int schema_check(const struct schema *s, const struct json *value, struct buf *report);

#endif
