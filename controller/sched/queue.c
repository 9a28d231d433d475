#include "controller/sched/queue.h"

#include "common/base/check.h"

static bool goes_before(const struct ctl_choice *a, const struct ctl_choice *b)
{
    if (a->resumed != b->resumed)
        return a->resumed;
    if (a->req->priority != b->req->priority)
        return a->req->priority > b->req->priority;
    return a->order < b->order;
}

void ctl_queue_add(struct ctl_queue *q, struct ctl_choice *c)
{
    struct ctl_choice *after; /* the one behind which c goes; NULL: the head */

    ASSERT(!c->prev && !c->next);
    if (c->resumed) {
        /* Only other resumed ones can be before it: few, and at the front. */
        struct ctl_choice *p = q->head;
        after = NULL;
        while (p && !goes_before(c, p)) {
            after = p;
            p = p->next;
        }
    } else {
        /* The youngest of the usual priority goes to the end at once. */
        after = q->tail;
        while (after && goes_before(c, after))
            after = after->prev;
    }
    c->prev = after;
    c->next = after ? after->next : q->head;
    *(c->prev ? &c->prev->next : &q->head) = c;
    *(c->next ? &c->next->prev : &q->tail) = c;
    q->n++;
    q->n_fresh += !c->resumed;
}

void ctl_queue_remove(struct ctl_queue *q, struct ctl_choice *c)
{
    ASSERT(q->n > 0);
    *(c->prev ? &c->prev->next : &q->head) = c->next;
    *(c->next ? &c->next->prev : &q->tail) = c->prev;
    c->prev = c->next = NULL;
    q->n--;
    q->n_fresh -= !c->resumed;
}

void ctl_list_add(struct ctl_choice **head, struct ctl_choice *c)
{
    ASSERT(!c->prev && !c->next);
    c->next = *head;
    if (c->next)
        c->next->prev = c;
    *head = c;
}

void ctl_list_remove(struct ctl_choice **head, struct ctl_choice *c)
{
    *(c->prev ? &c->prev->next : head) = c->next;
    if (c->next)
        c->next->prev = c->prev;
    c->prev = c->next = NULL;
}
