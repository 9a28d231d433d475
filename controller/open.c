/* The controller as it is served: the back with the HTTP front and the tokenizer of the model. Apart from ctl.c, so
 * that the back can be linked without the front. */
#include "common/text/tok_sim.h"
#include "controller/agent/agent.h"
#include "controller/api/front.h"
#include "controller/ctl.h"
#include "controller/ctl_internal.h"

static const struct ctl_front_ops http_front = {
    .open = ctl_front_open,
    .turn = ctl_front_turn,
    .recover = ctl_front_recover,
    .drain = ctl_front_drain,
    .arm = ctl_front_arm,
    .port = ctl_front_port,
    .native_endpoint = ctl_front_native_endpoint,
    .idle = ctl_front_idle,
    .close = ctl_front_close,
};

int ctl_open(uv_loop_t *loop, const struct ctl_config *config, struct ctl **ctl, struct err *err)
{
    struct ctl_parts parts = {.front = &http_front, .agent = &agent_ops, .tok_close = tok_close};

    if (!config->model_dir && !config->sim)
        return err_set(err, ERR_ARG, "no model directory; give --model DIR");
    int rc = config->sim ? tok_sim_open(&parts.tok, err) : tok_open(config->model_dir, &parts.tok, err);
    if (rc)
        return rc;
    parts.n_vocab = tok_n_vocab(parts.tok);
    rc = ctl_open_with(loop, config, &parts, ctl, err);
    if (rc)
        tok_close(&parts.tok);
    return rc;
}
