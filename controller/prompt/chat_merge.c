/* There is no tool role in the prompt: results become parts of user messages (spec/chat.md section 5). */
#include "common/base/check.h"
#include "controller/prompt/chat_impl.h"

#include <stdlib.h>
#include <string.h>

void chat__merge(const struct chat_list *in, struct arena *arena, struct chat_list *out)
{
    /* The blocks of one user message are neighbours here, since only the newest message grows. */
    struct chat_block *block = arena_array(arena, in->n, sizeof *block);
    struct chat_msg *open = NULL;
    size_t n_block = 0;

    for (size_t i = 0; i < in->n; i++) {
        const struct chat_msg *m = &in->msg[i];
        if (m->role != CHAT_USER && m->role != CHAT_TOOL) {
            open = NULL;
            out->msg[out->n++] = *m;
            continue;
        }
        bool result = m->role == CHAT_TOOL;
        if (!open || (!result && open->task.p)) {
            open = &out->msg[out->n++];
            *open = (struct chat_msg){.role = CHAT_USER, .place = m->place, .is_context = m->is_context};
            open->block = block + n_block;
            if (!result)
                open->task = m->task;
        }
        block[n_block++] = (struct chat_block){.result = result, .text = m->content, .id = m->id};
        open->n_block++;
    }
}

/* ---- the order of results ----------------------------------------------------------------------------- */

struct id_order {
    struct chat_text id;
    size_t order;
};

static int compare_text(struct chat_text a, struct chat_text b)
{
    int c = memcmp(a.p, b.p, a.n < b.n ? a.n : b.n);
    return c ? c : (a.n > b.n) - (a.n < b.n);
}

static int compare_ids(const void *a, const void *b)
{
    const struct id_order *x = a, *y = b;
    int c = compare_text(x->id, y->id);
    return c ? c : (x->order > y->order) - (x->order < y->order);
}

/* Ids of the calls of one message, sorted; of equal ids only the last call counts. */
struct id_table {
    const struct chat_msg *of;
    struct id_order *row;
    size_t n;
};

static void make_table(struct id_table *t, const struct chat_msg *m, struct arena *arena)
{
    t->of = m;
    t->row = arena_array(arena, m->n_call, sizeof *t->row);
    t->n = 0;
    for (size_t i = 0; i < m->n_call; i++)
        if (m->call[i].id.n)
            t->row[t->n++] = (struct id_order){m->call[i].id, i};
    qsort(t->row, t->n, sizeof *t->row, compare_ids);
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++)
        if (i + 1 == t->n || compare_text(t->row[i].id, t->row[i + 1].id) != 0)
            t->row[n++] = t->row[i];
    t->n = n;
}

static int compare_key(const void *key, const void *row)
{
    return compare_text(*(const struct chat_text *)key, ((const struct id_order *)row)->id);
}

static size_t order_of(const struct id_table *t, struct chat_text id)
{
    const struct id_order *row = t->n ? bsearch(&id, t->row, t->n, sizeof *t->row, compare_key) : NULL;
    return row ? row->order : 0;
}

struct sort_row {
    size_t order, place;
    struct chat_block block;
};

static int compare_rows(const void *a, const void *b)
{
    const struct sort_row *x = a, *y = b;
    if (x->order != y->order)
        return x->order < y->order ? -1 : 1;
    return (x->place > y->place) - (x->place < y->place); /* stable */
}

static void sort_blocks(struct chat_msg *m, const struct id_table *t, struct arena *arena)
{
    struct sort_row *row = arena_array(arena, m->n_block, sizeof *row);
    size_t n = 0;

    for (size_t i = 0; i < m->n_block; i++)
        if (m->block[i].result)
            row[n++] = (struct sort_row){order_of(t, m->block[i].id), i, m->block[i]};
    qsort(row, n, sizeof *row, compare_rows);
    n = 0;
    for (size_t i = 0; i < m->n_block; i++) /* texts keep their places */
        if (m->block[i].result)
            m->block[i] = row[n++].block;
}

void chat__sort_results(struct chat_list *list, struct arena *arena)
{
    const struct chat_msg *calls = NULL;
    struct id_table table = {0};

    for (size_t i = 0; i < list->n; i++) {
        struct chat_msg *m = &list->msg[i];
        if (m->role == CHAT_ASSISTANT && m->n_call)
            calls = m;
        if (m->role != CHAT_USER || m->n_block < 2 || !calls)
            continue;
        if (table.of != calls)
            make_table(&table, calls, arena);
        sort_blocks(m, &table, arena);
    }
}
