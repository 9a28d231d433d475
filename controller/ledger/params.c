#include "controller/ledger/params.h"

#include "common/mem/mem.h"
#include "controller/ledger/bytes.h"

#include <math.h>

enum { FLAG_IGNORE_EOS = 1 << 0, FLAG_KEEP = 1 << 1 };

void params_encode(const struct ctl_request *r, struct buf *out)
{
    const struct msg_sampling *s = &r->sampling;

    bytes_add_f32(out, s->temperature);
    bytes_add_f32(out, s->top_p);
    bytes_add_f32(out, s->min_p);
    bytes_add(out, (uint32_t)s->top_k, 4);
    bytes_add_f32(out, s->presence_penalty);
    bytes_add_f32(out, s->frequency_penalty);
    bytes_add_f32(out, s->repetition_penalty);
    bytes_add(out, (uint32_t)s->n_top, 4);
    bytes_add(out, (uint32_t)s->n_bias, 4);
    for (int32_t i = 0; i < s->n_bias; i++) {
        bytes_add(out, (uint32_t)s->bias[i].id, 4);
        bytes_add_f32(out, s->bias[i].bias);
    }
    bytes_add(out, (uint64_t)r->max_output, 8);
    bytes_add(out, (uint64_t)r->min_output, 8);
    bytes_add(out, (r->ignore_eos ? FLAG_IGNORE_EOS : 0) | (r->keep ? FLAG_KEEP : 0), 4);
    bytes_add(out, (uint32_t)r->n_stop_id, 4);
    for (int32_t i = 0; i < r->n_stop_id; i++)
        bytes_add(out, (uint32_t)r->stop_id[i], 4);
    bytes_add(out, (uint32_t)r->priority, 4);
    bytes_add(out, (uint32_t)r->origin, 4);
    bytes_add(out, r->front_bytes, 8);
    if (r->front_bytes)
        buf_add(out, r->front_state, r->front_bytes);
}

static int damaged(struct err *err, const char *what)
{
    return err_set(err, ERR_FORMAT, "the stored parameters are damaged: %s", what);
}

static int decode_sampling(struct bytes_in *in, struct msg_sampling *s, struct err *err)
{
    s->temperature = bytes_take_f32(in);
    s->top_p = bytes_take_f32(in);
    s->min_p = bytes_take_f32(in);
    s->top_k = (int32_t)bytes_take(in, 4);
    s->presence_penalty = bytes_take_f32(in);
    s->frequency_penalty = bytes_take_f32(in);
    s->repetition_penalty = bytes_take_f32(in);
    s->n_top = (int32_t)bytes_take(in, 4);
    int32_t n_bias = (int32_t)bytes_take(in, 4);
    if (in->bad || !isfinite(s->temperature) || !isfinite(s->top_p) || !isfinite(s->min_p) ||
        !isfinite(s->presence_penalty) || !isfinite(s->frequency_penalty) || !isfinite(s->repetition_penalty))
        return damaged(err, "sampling");
    if (s->top_k < 0 || s->n_top < 0 || s->n_top > MSG_TOP_MAX || n_bias < 0 || n_bias > MSG_BIAS_MAX)
        return damaged(err, "a count of the sampling");
    struct msg_bias *bias = n_bias ? mem_array((size_t)n_bias, sizeof *bias) : NULL;
    s->bias = bias;
    s->n_bias = n_bias;
    for (int32_t i = 0; i < n_bias; i++) {
        bias[i].id = (int32_t)bytes_take(in, 4);
        bias[i].bias = bytes_take_f32(in);
    }
    return in->bad ? damaged(err, "biases") : 0;
}

int params_decode(int32_t version, const void *data, size_t n, struct ctl_request *r, struct err *err)
{
    struct bytes_in in = {.at = data, .n = n};

    if (version != PARAMS_VERSION)
        return err_set(err, ERR_VERSION, "the stored parameters have version %d, this program knows %d", (int)version,
                       PARAMS_VERSION);
    int rc = decode_sampling(&in, &r->sampling, err);
    if (rc)
        return rc;
    r->max_output = (int64_t)bytes_take(&in, 8);
    r->min_output = (int64_t)bytes_take(&in, 8);
    uint32_t flags = (uint32_t)bytes_take(&in, 4);
    int32_t n_stop_id = (int32_t)bytes_take(&in, 4);
    if (in.bad || flags & ~(uint32_t)(FLAG_IGNORE_EOS | FLAG_KEEP) || r->max_output < 1 ||
        r->max_output > MSG_TOKENS_MAX || r->min_output < 0 || r->min_output > r->max_output || n_stop_id < 0 ||
        n_stop_id > MSG_STOP_IDS_MAX)
        return damaged(err, "limits");
    r->ignore_eos = flags & FLAG_IGNORE_EOS;
    r->keep = flags & FLAG_KEEP;
    r->n_stop_id = n_stop_id;
    for (int32_t i = 0; i < n_stop_id; i++)
        r->stop_id[i] = (int32_t)bytes_take(&in, 4);
    r->priority = (int32_t)bytes_take(&in, 4);
    uint32_t origin = (uint32_t)bytes_take(&in, 4);
    uint64_t front_bytes = bytes_take(&in, 8);
    if (in.bad || origin >= CTL_ORIGIN_N || front_bytes > PARAMS_FRONT_BYTES_MAX || front_bytes != in.n)
        return damaged(err, "the front's part");
    r->origin = (enum ctl_origin)origin;
    r->front_bytes = (size_t)front_bytes;
    r->front_state = front_bytes ? mem_dup(in.at, (size_t)front_bytes) : NULL;
    return 0;
}
