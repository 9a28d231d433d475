#include "worker/engine/rope.h"

#include <math.h>

/* c(n) of section 5: the pair that turns n times over the original context. */
static double pair_of_turns(const struct mdl_config *cfg, double turns)
{
    double pi = 3.14159265358979323846, len = (double)cfg->yarn.original_max_position_embeddings;
    return cfg->qk_rope_head_dim * log(len / (turns * 2 * pi)) / (2 * log(cfg->compress_rope_theta));
}

void eng__rope_freqs(const struct mdl_config *cfg, bool compressed, float *freq)
{
    int n = cfg->qk_rope_head_dim / 2;
    double theta = compressed ? cfg->compress_rope_theta : cfg->rope_theta;

    for (int i = 0; i < n; i++) {
        float exponent = (float)(2 * i) / (float)cfg->qk_rope_head_dim;
        float power = (float)pow(theta, exponent);
        freq[i] = 1.0f / power;
    }
    if (!compressed || !cfg->yarn.on)
        return;
    double low = fmax(floor(pair_of_turns(cfg, cfg->yarn.beta_fast)), 0);
    double high = fmin(ceil(pair_of_turns(cfg, cfg->yarn.beta_slow)), cfg->qk_rope_head_dim - 1);
    float span = high > low || high < low ? (float)(high - low) : 0.001f;
    for (int i = 0; i < n; i++) {
        float r = ((float)i - (float)low) / span;
        float keep = 1 - (r < 0 ? 0 : r > 1 ? 1 : r); /* 1: as it is, 0: slowed down by the factor */
        freq[i] = freq[i] / (float)cfg->yarn.factor * (1 - keep) + freq[i] * keep;
    }
}
