#include "hf/family.h"

namespace laos::hf {
namespace {

// Llama's names, which the families after it have kept.
constexpr ModuleNames llama_names() {
  ModuleNames names{.layers = "model.layers",
                    .linears = {},
                    .norms = {"self_attn.q_norm", "self_attn.k_norm", "input_layernorm",
                              "post_attention_layernorm"},
                    .embed_tokens = "model.embed_tokens",
                    .norm = "model.norm",
                    .lm_head = "lm_head",
                    .experts = "mlp.experts",
                    .shared_expert = "mlp.shared_expert",
                    .routers = {"mlp.gate", "mlp.shared_expert_gate"}};
  names.linears[Linear::kQProj] = "self_attn.q_proj";
  names.linears[Linear::kKProj] = "self_attn.k_proj";
  names.linears[Linear::kVProj] = "self_attn.v_proj";
  names.linears[Linear::kOProj] = "self_attn.o_proj";
  names.linears[Linear::kGateProj] = "mlp.gate_proj";
  names.linears[Linear::kUpProj] = "mlp.up_proj";
  names.linears[Linear::kDownProj] = "mlp.down_proj";
  return names;
}

constexpr Family kFamilies[] = {
    {.architecture = "Qwen3ForCausalLM",
     .model_type = "qwen3",
     .names = llama_names(),
     .qk_norm = true,
     .attention_bias = true,
     .window = WindowKey::kUseSlidingWindow,
     .default_head_dim = 128,
     .default_max_position_embeddings = 32'768},
    {.architecture = "Qwen2ForCausalLM",  // Qwen2, Qwen2.5, QwQ, DeepSeek-R1-Distill-Qwen
     .model_type = "qwen2",
     .names = llama_names(),
     .qkv_bias = true,
     .window = WindowKey::kUseSlidingWindow,
     .default_max_position_embeddings = 32'768},
    {.architecture = "Qwen3MoeForCausalLM",
     .model_type = "qwen3_moe",
     .names = llama_names(),
     .qk_norm = true,
     .attention_bias = true,
     .window = WindowKey::kUseInAll,
     .default_max_position_embeddings = 32'768,
     .experts = true},
    {.architecture = "Qwen2MoeForCausalLM",  // Qwen1.5-MoE, Qwen2-57B-A14B
     .model_type = "qwen2_moe",
     .names = llama_names(),
     .qkv_bias = true,
     .window = WindowKey::kUseInAll,
     .default_max_position_embeddings = 32'768,
     .experts = true,
     .shared_expert = true},
    {.architecture = "LlamaForCausalLM",  // Llama, SmolLM2, Yi, DeepSeek-R1-Distill-Llama
     .model_type = "llama",
     .names = llama_names(),
     .attention_bias = true,
     .mlp_bias = true,
     .default_max_position_embeddings = 2048,
     .default_kv_heads_are_heads = true},
    {.architecture = "MistralForCausalLM",
     .model_type = "mistral",
     .names = llama_names(),
     .window = WindowKey::kAlways,
     .default_sliding_window = 4096,
     .default_max_position_embeddings = 131'072},
    {.architecture = "SeedOssForCausalLM",
     .model_type = "seed_oss",
     .names = llama_names(),
     .attention_bias = true,
     .default_attention_bias = true,
     .o_bias_key = "attention_out_bias",
     .mlp_bias = true,
     .default_head_dim = 128,
     .default_max_position_embeddings = 524'288},
};

}  // namespace

std::span<const Family> families() noexcept { return kFamilies; }
const Family& default_family() noexcept { return kFamilies[0]; }

}  // namespace laos::hf
