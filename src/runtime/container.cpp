// SPDX-License-Identifier: Apache-2.0
// Opening, mapping and validating a GGUF file. Time and memory are bounded by the size of the file, whatever its header
// claims: a count is compared with the bytes left before anything is reserved for it.
//
// The mapping is shared and not locked: a file that another process shortens while it is open raises SIGBUS at the next
// access, as with any mapped file. Writers of this project write to a temporary name and rename, which is safe.
#include "container.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <numeric>
#include <system_error>

#include "error.h"
#include "gguf_text.h"

namespace rkllm {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are read in place: little-endian machines only");

constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMinAlignment = 8, kMaxAlignment = 65536;
constexpr uint64_t kMaxNameBytes = 65535;
constexpr uint32_t kMaxDims = 4;
// The fewest bytes that a key with its value and a tensor's description take: the bound on their counts.
constexpr uint64_t kMinValueBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

using ull = unsigned long long;

struct TensorType {
  const char* name;
  uint32_t number;
  uint64_t block;        // elements
  uint64_t block_bytes;
};

constexpr TensorType kTensorTypes[] = {
#define GGML_TYPE(name, number, block, bytes) {#name, number, block, bytes},
#include "gguf_types.def"
#undef GGML_TYPE
};

const TensorType* find_tensor_type(uint32_t number) {
  for (const TensorType& type : kTensorTypes) {
    if (type.number == number) return &type;
  }
  return nullptr;
}

// Reads forward through the header; every step is checked against the end of the file.
struct Cursor {
  const std::string& path;
  const uint8_t* bytes;
  uint64_t size;
  uint64_t at = 0;
  std::string where = "the header";  // what is being read, for the sentence

  uint64_t left() const { return size - at; }

  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(ErrorCode::MODEL_FILE, path + ": " + where + " " + what);
  }

  const uint8_t* take(uint64_t n) {
    if (n > left()) refuse(format("ends %llu bytes past the file", ull{n - left()}));
    const uint8_t* start = bytes + at;
    at += n;
    return start;
  }

  template <class Number>
  Number number() {
    Number value;
    memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }

  // A length and that many bytes.
  std::string_view string() {
    const auto n = number<uint64_t>();
    return {reinterpret_cast<const char*>(take(n)), static_cast<size_t>(n)};
  }

  // The name of a key or tensor: these go into sentences, C strings and Python strings.
  std::string name() {
    const std::string_view text = string();
    if (text.empty()) refuse("has an empty name");
    if (text.size() > kMaxNameBytes) {
      refuse(format("has a name of %llu bytes, more than %llu", ull{text.size()}, ull{kMaxNameBytes}));
    }
    if (!is_utf8(text)) refuse("has a name that is not UTF-8");
    if (text.find('\0') != text.npos) refuse("has a name with a NUL byte");
    return std::string(text);
  }
};

void check_bools(const Cursor& cursor, const uint8_t* data, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) {
    if (data[i] > 1) cursor.refuse(format("holds the bool %d, neither 0 nor 1", data[i]));
  }
}

void read_elements(Cursor& cursor, Value& value) {
  const uint64_t width = element_bytes(value.element);
  const uint64_t least = width ? width : 8;  // a string is at least its length
  if (value.count > cursor.left() / least) {
    cursor.refuse(format("claims %llu elements of at least %llu bytes, but %llu bytes are left in the file",
                         ull{value.count}, ull{least}, ull{cursor.left()}));
  }
  value.data = cursor.bytes + cursor.at;
  if (width) {
    cursor.take(value.count * width);
  } else {
    for (uint64_t i = 0; i < value.count; i++) cursor.string();
  }
  value.n_bytes = static_cast<uint64_t>(cursor.bytes + cursor.at - value.data);
  if (value.element == ValueType::BOOL) check_bools(cursor, value.data, value.count);
}

Value read_value(Cursor& cursor, uint64_t index) {
  cursor.where = format("key number %llu", ull{index});
  Value value{};
  value.key = cursor.name();
  cursor.where = "key " + quoted(value.key);
  const auto type = cursor.number<uint32_t>();
  if (!value_type_name(type)) cursor.refuse(format("has the unknown value type %u", type));
  value.type = value.element = static_cast<ValueType>(type);
  value.count = 1;
  if (value.type == ValueType::ARRAY) {
    const auto element = cursor.number<uint32_t>();
    if (!value_type_name(element)) cursor.refuse(format("is an array of the unknown value type %u", element));
    value.element = static_cast<ValueType>(element);
    if (value.element == ValueType::ARRAY) cursor.refuse("is an array of arrays, which is not supported");
    value.count = cursor.number<uint64_t>();
  }
  read_elements(cursor, value);
  return value;
}

// Bytes of a tensor; rows are whole blocks.
uint64_t tensor_bytes(const Cursor& cursor, const TensorInfo& tensor) {
  const TensorType* type = find_tensor_type(tensor.type);
  if (!type) cursor.refuse(format("has the unknown tensor type %u", tensor.type));
  if (tensor.dims[0] % type->block != 0) {
    cursor.refuse(format("has rows of %llu elements, not a multiple of %llu, the block of %s", ull{tensor.dims[0]},
                         ull{type->block}, type->name));
  }
  uint64_t elements = 1, n_bytes = 0;
  bool wraps = __builtin_mul_overflow(tensor.dims[0] / type->block, type->block_bytes, &n_bytes);
  for (size_t i = 0; i < tensor.dims.size(); i++) {
    wraps = wraps || __builtin_mul_overflow(elements, tensor.dims[i], &elements);
    wraps = wraps || (i > 0 && __builtin_mul_overflow(n_bytes, tensor.dims[i], &n_bytes));
  }
  if (wraps) cursor.refuse("has dimensions whose product does not fit 64 bits");
  return n_bytes;
}

TensorInfo read_tensor(Cursor& cursor, uint64_t index) {
  cursor.where = format("tensor number %llu", ull{index});
  TensorInfo tensor{};
  tensor.name = cursor.name();
  cursor.where = "tensor " + quoted(tensor.name);
  const auto n_dims = cursor.number<uint32_t>();
  if (n_dims < 1 || n_dims > kMaxDims) {
    cursor.refuse(format("has %u dimensions; 1 to %u are possible", n_dims, kMaxDims));
  }
  for (uint32_t i = 0; i < n_dims; i++) tensor.dims.push_back(cursor.number<uint64_t>());
  for (uint32_t i = 0; i < n_dims; i++) {
    if (tensor.dims[i] == 0) cursor.refuse(format("has the size 0 in dimension %u", i));
  }
  tensor.type = cursor.number<uint32_t>();
  tensor.offset = cursor.number<uint64_t>();
  tensor.n_bytes = tensor_bytes(cursor, tensor);
  return tensor;
}

// Find the tensor's bytes in the data section that starts at start.
void place_tensor(Cursor& cursor, TensorInfo& tensor, uint64_t start, uint64_t alignment) {
  cursor.where = "tensor " + quoted(tensor.name);
  if (tensor.offset % alignment != 0) {
    cursor.refuse(format("starts at offset %llu, not a multiple of the alignment %llu", ull{tensor.offset},
                         ull{alignment}));
  }
  uint64_t end = 0;
  if (__builtin_add_overflow(start, tensor.offset, &end) || __builtin_add_overflow(end, tensor.n_bytes, &end)) {
    cursor.refuse(format("has offset %llu and size %llu, which do not fit 64 bits", ull{tensor.offset},
                         ull{tensor.n_bytes}));
  }
  if (end > cursor.size) cursor.refuse(format("ends %llu bytes past the file", ull{end - cursor.size}));
  tensor.data = cursor.bytes + start + tensor.offset;
}

// The order of the items by name; refuses two of the same name. Sorted rather than hashed: no choice of names makes
// this slow.
template <class Items, class Name>
std::vector<size_t> order_by(const Cursor& cursor, const Items& items, Name name, const char* noun) {
  std::vector<size_t> order(items.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return name(items[a]) < name(items[b]); });
  for (size_t i = 1; i < order.size(); i++) {
    if (name(items[order[i]]) != name(items[order[i - 1]])) continue;
    const std::string twice = quoted(name(items[order[i]])) + " occurs twice";
    throw Error(ErrorCode::MODEL_FILE, cursor.path + ": " + noun + " " + twice);
  }
  return order;
}

template <class Items, class Name>
auto find_in(const Items& items, const std::vector<size_t>& order, std::string_view wanted, Name name)
    -> decltype(items.data()) {
  const auto at = std::lower_bound(order.begin(), order.end(), wanted,
                                   [&](size_t i, std::string_view text) { return name(items[i]) < text; });
  return at != order.end() && name(items[*at]) == wanted ? &items[*at] : nullptr;
}

std::string_view key_of(const Value& value) { return value.key; }
std::string_view name_of(const TensorInfo& tensor) { return tensor.name; }

void refuse_overlaps(const Cursor& cursor, const std::vector<TensorInfo>& tensors) {
  std::vector<const TensorInfo*> order;
  order.reserve(tensors.size());
  for (const TensorInfo& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](auto* a, auto* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < order.size(); i++) {
    const uint64_t end = order[i - 1]->offset + order[i - 1]->n_bytes;
    if (end <= order[i]->offset) continue;
    throw Error(ErrorCode::MODEL_FILE, cursor.path + ": tensors " + quoted(order[i - 1]->name) + " and " +
                                           quoted(order[i]->name) +
                                           format(" overlap by %llu bytes", ull{end - order[i]->offset}));
  }
}

void check_signature(Cursor& cursor) {
  cursor.where = "this";
  const std::string_view start(reinterpret_cast<const char*>(cursor.bytes), std::min<uint64_t>(cursor.size, 64));
  if (start.substr(0, 4) != "GGUF") cursor.refuse(describe_foreign_file(cursor.path, start));
  cursor.where = "the header";
  cursor.take(4);
  const auto version = cursor.number<uint32_t>();
  if (version == 2 || version == 3) return;
  if (version == 0x02000000 || version == 0x03000000) {
    cursor.refuse("is big-endian; convert the model again on a little-endian machine");
  }
  cursor.refuse(format("has GGUF version %u; versions 2 and 3 are supported: convert the model again", version));
}

void check_count(const Cursor& cursor, uint64_t count, uint64_t least, const char* noun) {
  if (count <= cursor.left() / least) return;
  cursor.refuse(format("claims %llu %s of at least %llu bytes, but %llu bytes are left in the file", ull{count}, noun,
                       ull{least}, ull{cursor.left()}));
}

}  // namespace

void Container::parse() {
  Cursor cursor{path_, bytes_, size_};
  check_signature(cursor);
  const auto n_tensors = cursor.number<uint64_t>();
  const auto n_values = cursor.number<uint64_t>();
  check_count(cursor, n_tensors, kMinTensorBytes, "tensors");
  check_count(cursor, n_values, kMinValueBytes, "keys");

  for (uint64_t i = 0; i < n_values; i++) values_.push_back(read_value(cursor, i));
  value_order_ = order_by(cursor, values_, key_of, "key");
  uint64_t alignment = kDefaultAlignment;
  if (find_value("general.alignment")) alignment = static_cast<uint64_t>(get_int("general.alignment"));
  if (alignment < kMinAlignment || alignment > kMaxAlignment || (alignment & (alignment - 1)) != 0) {
    cursor.where = "key 'general.alignment'";
    cursor.refuse(format("is %lld; it must be a power of two from %llu to %llu", static_cast<long long>(alignment),
                         ull{kMinAlignment}, ull{kMaxAlignment}));
  }

  for (uint64_t i = 0; i < n_tensors; i++) tensors_.push_back(read_tensor(cursor, i));
  tensor_order_ = order_by(cursor, tensors_, name_of, "tensor");
  const uint64_t start = (cursor.at + alignment - 1) / alignment * alignment;
  header_size_ = std::min(start, size_);  // without tensors the padding may be missing
  for (TensorInfo& tensor : tensors_) place_tensor(cursor, tensor, start, alignment);
  refuse_overlaps(cursor, tensors_);
}

std::shared_ptr<const Container> Container::open(const std::string& path) {
  const auto refuse = [&](const std::string& what) { throw Error(ErrorCode::MODEL_FILE, path + ": " + what); };
  // Not blocking: opening a pipe would wait for its writer.
  struct File {
    int fd;
    ~File() { if (fd >= 0) close(fd); }
  } file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) {
    refuse(errno == ENOENT ? "there is no such file" : "cannot be opened: " + std::system_category().message(errno));
  }
  struct stat info {};
  if (fstat(file.fd, &info) != 0) refuse("cannot be examined: " + std::system_category().message(errno));
  if (S_ISDIR(info.st_mode))
    refuse("is a directory; a model file is expected, which 'rkllm-ext convert' makes of a checkpoint");
  if (!S_ISREG(info.st_mode)) refuse("is not a regular file");
  if (info.st_size == 0) refuse("is empty");
  const auto size = static_cast<uint64_t>(info.st_size);
  if (size > SIZE_MAX / 2) refuse(format("has %llu bytes, more than this machine can map", ull{size}));

  std::shared_ptr<Container> container(new Container);
  void* bytes = mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_SHARED, file.fd, 0);
  if (bytes == MAP_FAILED) refuse("cannot be mapped: " + std::system_category().message(errno));
  // What is not in memory yet is then read in huge pages, where kernel and file system can: a decode step leaves a page
  // of 4 KB after a tenth of a microsecond, and waits for the address of the next.
#ifdef MADV_HUGEPAGE
  madvise(bytes, static_cast<size_t>(size), MADV_HUGEPAGE);
#endif
  container->path_ = path;
  container->bytes_ = static_cast<const uint8_t*>(bytes);
  container->size_ = size;
  container->parse();
  return container;
}

Container::~Container() {
  if (bytes_) munmap(const_cast<uint8_t*>(bytes_), static_cast<size_t>(size_));
}

const Value* Container::find_value(std::string_view key) const { return find_in(values_, value_order_, key, key_of); }

const TensorInfo* Container::find_tensor(std::string_view name) const {
  return find_in(tensors_, tensor_order_, name, name_of);
}

}  // namespace rkllm
