// SPDX-License-Identifier: Apache-2.0
#include "saved_state.h"

#include <algorithm>
#include <cstring>

#include "container_writer.h"
#include "error.h"
#include "rkllm_file.h"

namespace rkllm {
namespace {

// Raised when the same tokens get other bits of keys and values, or the file says something else about them.
constexpr uint32_t kStateVersion = 1;
constexpr char kLogits[] = "logits";

std::string layer_name(int layer) { return "blk." + std::to_string(layer) + ".kv"; }

// "" stands for 0, which is no fingerprint.
std::string hexadecimal(uint64_t fingerprint) {
  return fingerprint ? format("%016llx", static_cast<unsigned long long>(fingerprint)) : "";
}

uint64_t fingerprint_in(const Container& file, const char* key) {
  const std::string text(file.get_string(key));
  if (text.empty()) return 0;
  if (text.size() != 16 || text.find_first_not_of("0123456789abcdef") != text.npos)
    refuse(file, std::string(key) + " is not a number of 16 hexadecimal digits");
  return std::stoull(text, nullptr, 16);
}

int integer_in(const Container& file, const char* key, int64_t least, int64_t most) {
  const int64_t number = file.get_int(key);
  if (number < least || number > most)
    refuse(file, format("%s is %lld, but must be %lld to %lld", key, static_cast<long long>(number),
                        static_cast<long long>(least), static_cast<long long>(most)));
  return int(number);
}

std::string text_or(const Container& file, const char* key, const char* otherwise) {
  const Value* value = file.find_value(key);
  return value && value->type == ValueType::STRING ? std::string(file.get_string(key)) : otherwise;
}

void check_model(const Container& file, const Model& model) {
  if (fingerprint_in(file, "rkllm.cache.model") == fingerprint_of(*model.file)) return;
  const std::string format_then = text_or(file, "rkllm.format", ""), source = text_or(file, "rkllm.source", "");
  if (source == text_or(*model.file, "rkllm.source", "") && format_then != model.format)
    refuse(file, "was saved with this model in the format " + format_then + ", but " + model.file->path() + " is in " +
                     model.format + "; save it again with this file");
  const std::string name = text_or(file, "general.name", "");
  refuse(file, "was saved with another model (" + name + (name.empty() ? "" : ", ") + format_then + ") than " +
                   model.file->path() + "; save it again with this model");
}

void check_kv_type(const Container& file, KvType type) {
  const std::string name(file.get_string("rkllm.cache.kv_type"));
  if (name != kv_type_name(type))
    refuse(file, "holds keys and values as " + name + ", but kv_type is " + kv_type_name(type) +
                     "; save it again, or set kv_type before it is loaded");
}

// Files of models without a choice, and those from before there was one, say nothing.
void check_activations(const Container& file, ActivationType type) {
  const std::string name = text_or(file, "rkllm.cache.activations", activation_type_name(ActivationType::AUTO));
  if (name != activation_type_name(type))
    refuse(file, "was computed with activations " + name + ", but activations is " + activation_type_name(type) +
                     "; save it again, or set activations before it is loaded");
}

Positions read_positions(const Container& file, const Spec& spec) {
  const std::vector<int64_t> keys = file.get_ints("rkllm.cache.tokens");
  if (keys.empty() || keys.size() > spec.max_context)
    refuse(file,
           format("rkllm.cache.tokens has %zu elements, but 1 to %u are possible", keys.size(), spec.max_context));
  Positions positions;
  for (int64_t key : keys) {
    if (key >= int64_t(spec.vocab_size))
      refuse(file, format("rkllm.cache.tokens has the token %lld, outside the vocabulary of 0 to %u",
                          static_cast<long long>(key), spec.vocab_size - 1));
    positions.keys.push_back(uint64_t(key));
  }
  positions.variant = file.get_float("rkllm.cache.variant");
  positions.uniform = integer_in(file, "rkllm.cache.uniform", 0, positions.length());
  return positions;
}

// The bytes of a tensor of this type and size; nullptr when there is none.
const uint8_t* find_bytes(const Container& file, const std::string& name, TensorType type, int64_t n_bytes) {
  const TensorInfo* tensor = file.find_tensor(name);
  if (!tensor) return nullptr;
  if (tensor->type != uint32_t(type) || tensor->n_bytes != uint64_t(n_bytes))
    refuse(file, format("tensor '%s' has %llu bytes, but %lld are needed", name.c_str(),
                        static_cast<unsigned long long>(tensor->n_bytes), static_cast<long long>(n_bytes)));
  return tensor->data;
}

void read_layers(const Container& file, const Spec& spec, const KvCache& like, SavedState& state) {
  const int n = state.positions.length();
  for (int layer = 0; layer < int(spec.n_layers); layer++) {
    const uint8_t* bytes = find_bytes(file, layer_name(layer), TensorType::I8, like.state_bytes(n));
    if (!bytes) refuse(file, "tensor '" + layer_name(layer) + "' is missing");
    if (!like.is_state(n, bytes)) refuse(file, "tensor '" + layer_name(layer) + "' has values that are not finite");
    state.layers.push_back(bytes);
  }
}

bool floats_are_finite(const void* data, int64_t n_bytes) {
  return all_finite<uint32_t>(static_cast<const uint8_t*>(data), n_bytes, 0x7f800000);
}

void read_logits(const Container& file, const Spec& spec, SavedState& state) {
  const int64_t n_bytes = int64_t(spec.vocab_size) * int64_t(sizeof(float));
  const uint8_t* bytes = find_bytes(file, kLogits, TensorType::F32, n_bytes);
  if (!bytes) return;
  if (!floats_are_finite(bytes, n_bytes)) refuse(file, "tensor 'logits' has values that are not finite");
  state.logits.resize(spec.vocab_size);
  memcpy(state.logits.data(), bytes, size_t(n_bytes));
}

}  // namespace

void save_state(const std::string& path, const Model& model, const Sequence& sequence, const StateContext& context) {
  const Positions& positions = sequence.positions();
  const int n = positions.length();
  if (n < 1) throw Error(ErrorCode::INVALID_ARGUMENT, path + ": nothing can be saved: the sequence is empty");
  ContainerWriter file(path);
  file.put("general.architecture", "rkllm");
  file.put("general.type", "prompt_cache");
  if (model.file->find_value("general.name")) file.put("general.name", text_or(*model.file, "general.name", ""));
  file.put("rkllm.version", kFileVersion);
  file.put("rkllm.required", std::vector<std::string>());
  file.put("rkllm.producer", "rkllm_ext " RKLLM_EXT_VERSION);
  file.put("rkllm.source", text_or(*model.file, "rkllm.source", ""));
  file.put("rkllm.format", model.format);
  file.put("rkllm.cache.version", kStateVersion);
  file.put("rkllm.cache.model", hexadecimal(fingerprint_of(*model.file)));
  file.put("rkllm.cache.adapter", hexadecimal(context.adapter));
  file.put("rkllm.cache.kv_type", kv_type_name(sequence.cache().type()));
  file.put("rkllm.cache.activations", activation_type_name(context.activations));
  file.put("rkllm.cache.tokens", std::vector<int64_t>(positions.keys.begin(), positions.keys.end()));
  file.put("rkllm.cache.variant", positions.variant);
  file.put("rkllm.cache.uniform", uint32_t(positions.uniform));
  file.put("rkllm.cache.prompt_length", uint32_t(context.prompt_length));
  const int64_t state_bytes = sequence.cache().state_bytes(n);
  const int n_layers = int(model.spec.n_layers);
  const bool has_logits = context.logits && floats_are_finite(context.logits, int64_t(model.spec.vocab_size) * 4);
  for (int layer = 0; layer < n_layers; layer++) file.declare(layer_name(layer), TensorType::I8, uint64_t(state_bytes));
  if (has_logits) file.declare(kLogits, TensorType::F32, model.spec.vocab_size);
  file.begin();
  Buffer<uint8_t> bytes(state_bytes);
  for (int layer = 0; layer < n_layers; layer++) {
    sequence.cache().read_state(layer, n, bytes.data());
    file.write(bytes.data());
  }
  if (has_logits) file.write(context.logits);
  file.finish();
}

std::shared_ptr<const SavedState> open_state(const std::string& path, const Model& model, const KvCache& like,
                                             ActivationType activations) {
  const std::shared_ptr<const Container> file = Container::open(path);
  check_file(*file, "prompt_cache");
  const int64_t version = file->get_int("rkllm.cache.version");
  if (version != int64_t(kStateVersion))
    throw Error(ErrorCode::UNSUPPORTED_MODEL,
                format("%s: the state has version %lld, this library computes version %u; save it again", path.c_str(),
                       static_cast<long long>(version), kStateVersion));
  check_model(*file, model);
  check_kv_type(*file, like.type());
  check_activations(*file, activations);
  const Spec& spec = model.spec;
  auto state = std::make_shared<SavedState>();
  state->file = file;
  state->positions = read_positions(*file, spec);
  state->kv_type = like.type();
  state->activations = activations;
  state->adapter = fingerprint_in(*file, "rkllm.cache.adapter");
  state->prompt_length = integer_in(*file, "rkllm.cache.prompt_length", 0, spec.max_context);
  read_layers(*file, spec, like, *state);
  read_logits(*file, spec, *state);
  return state;
}

void restore_state(const SavedState& state, int n, Sequence& sequence) {
  Positions positions = state.positions;  // before anything is changed: this may fail
  positions.truncate(n);
  for (size_t layer = 0; layer < state.layers.size(); layer++)
    sequence.cache().write_state(int(layer), state.positions.length(), n, state.layers[layer]);
  sequence.replace(std::move(positions));
}

}  // namespace rkllm
