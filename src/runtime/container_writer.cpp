// SPDX-License-Identifier: Apache-2.0
#include "container_writer.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <random>
#include <system_error>

#include "checksum.h"
#include "container.h"
#include "error.h"

namespace rkllm {
namespace {

constexpr uint64_t kAlignment = 64;
constexpr uint32_t kGgufVersion = 3;
constexpr int kMostLinks = 40;        // that are followed, as the system does
constexpr size_t kLongestName = 200;  // what is taken of a name: a file name has 255 bytes at most

uint64_t aligned(uint64_t n) { return (n + kAlignment - 1) / kAlignment * kAlignment; }

uint64_t element_bytes_of(TensorType type) { return type == TensorType::I8 ? 1 : type == TensorType::F32 ? 4 : 8; }

template <class Number>
void add_number(std::string& bytes, Number number) {
  bytes.append(reinterpret_cast<const char*>(&number), sizeof number);
}

void add_text(std::string& bytes, std::string_view text) {
  add_number(bytes, uint64_t(text.size()));
  bytes.append(text);
}

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == path.npos ? "." : path.substr(0, slash + 1);
}

std::string descriptor_path(int fd) { return format("/proc/self/fd/%d", fd); }

// Open a file in a folder that has no name yet, so that nothing is left of it when the process is killed. Returns -1
// where the system has no such files or could not name them later (Android's policy forbids applications to).
int open_nameless(const std::string& folder) {
#if defined(O_TMPFILE) && !defined(__ANDROID__)
  const int fd = open(folder.c_str(), O_WRONLY | O_TMPFILE | O_CLOEXEC, 0666);
  if (fd < 0 || access(descriptor_path(fd).c_str(), F_OK) == 0) return fd;
  close(fd);
#else
  (void)folder;
#endif
  return -1;
}

// The file that a link leads to, there or not, which is what is replaced; other paths as they are.
std::string behind_links(std::string path) {
  for (int i = 0; i < kMostLinks; ++i) {
    char target[4096];
    const ssize_t length = readlink(path.c_str(), target, sizeof target);
    if (length <= 0 || size_t(length) == sizeof target) break;  // no link, or one that cannot be followed
    const std::string folder = target[0] == '/' ? "" : folder_of(path) + "/";
    path = folder + std::string(target, size_t(length));
  }
  return path;
}

// A file that outgrows the process's limit must be an error and not the signal that ends the process. The signal goes
// to the thread that writes; it is taken back before it is let through again.
class FileSizeSignal {
 public:
  FileSizeSignal() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGXFSZ);
    sigset_t pending;
    was_pending_ = sigpending(&pending) == 0 && sigismember(&pending, SIGXFSZ) == 1;
    blocked_ = pthread_sigmask(SIG_BLOCK, &set_, &before_) == 0;
  }
  ~FileSizeSignal() {
    if (!blocked_) return;
    sigset_t pending;
    int signal;
    if (!was_pending_ && sigpending(&pending) == 0 && sigismember(&pending, SIGXFSZ) == 1) sigwait(&set_, &signal);
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  FileSizeSignal(const FileSizeSignal&) = delete;
  FileSizeSignal& operator=(const FileSizeSignal&) = delete;

 private:
  sigset_t set_, before_;
  bool was_pending_, blocked_;
};

}  // namespace

void check_target(const std::string& given) {
  const std::string path = behind_links(given);
  const auto refuse = [&](const std::string& why) { throw Error(ErrorCode::INVALID_ARGUMENT, path + ": " + why); };
  const std::string folder = folder_of(path);
  struct stat info = {};
  if (path.empty() || path.back() == '/') refuse("is no name of a file; name a file to write");
  if (stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) refuse("is a folder; name a file to write");
  if (stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) refuse("is not a regular file and cannot be replaced");
  if (stat(folder.c_str(), &info) != 0 || !S_ISDIR(info.st_mode))
    refuse("the folder " + folder + " does not exist; make it first");
  if (access(folder.c_str(), W_OK | X_OK) != 0) refuse("the folder " + folder + " may not be written to");
}

ContainerWriter::ContainerWriter(std::string path) : path_(behind_links(std::move(path))) {
  put("general.alignment", uint32_t(kAlignment));
}

ContainerWriter::~ContainerWriter() {
  if (fd_ < 0) return;
  close(fd_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

bool ContainerWriter::take_temporary_name(const std::function<bool(const char*)>& take) {
  const std::string folder = path_.rfind('/') == path_.npos ? "" : folder_of(path_);
  std::random_device random;
  for (int attempt = 0; attempt < 100; attempt++) {
    const std::string name = "." + path_.substr(folder.size(), kLongestName) + format(".%08x.tmp", unsigned(random()));
    if (take((folder + name).c_str())) {
      temporary_ = folder + name;
      return true;
    }
    if (errno != EEXIST) return false;
  }
  return false;
}

void ContainerWriter::start_key(const std::string& key, uint32_t type) {
  add_text(keys_, key);
  add_number(keys_, type);
  n_keys_++;
}

void ContainerWriter::put(const std::string& key, std::string_view text) {
  start_key(key, uint32_t(ValueType::STRING));
  add_text(keys_, text);
}

void ContainerWriter::put(const std::string& key, uint32_t number) {
  start_key(key, uint32_t(ValueType::U32));
  add_number(keys_, number);
}

void ContainerWriter::put(const std::string& key, double number) {
  start_key(key, uint32_t(ValueType::F64));
  add_number(keys_, number);
}

void ContainerWriter::put(const std::string& key, const std::vector<int64_t>& numbers) {
  start_key(key, uint32_t(ValueType::ARRAY));
  add_number(keys_, uint32_t(ValueType::I64));
  add_number(keys_, uint64_t(numbers.size()));
  for (int64_t number : numbers) add_number(keys_, number);
}

void ContainerWriter::put(const std::string& key, const std::vector<std::string>& texts) {
  start_key(key, uint32_t(ValueType::ARRAY));
  add_number(keys_, uint32_t(ValueType::STRING));
  add_number(keys_, uint64_t(texts.size()));
  for (const std::string& text : texts) add_text(keys_, text);
}

void ContainerWriter::declare(const std::string& name, TensorType type, uint64_t n_elements) {
  tensors_.push_back({name, type, n_elements, n_elements * element_bytes_of(type)});
}

void ContainerWriter::begin() {
  check_target(path_);
  declare("checksums", TensorType::I64, tensors_.size() + 1);
  std::string header = "GGUF";
  add_number(header, kGgufVersion);
  add_number(header, uint64_t(tensors_.size()));
  add_number(header, n_keys_);
  header += keys_;
  uint64_t offset = 0, end = 0;
  for (const Declared& tensor : tensors_) {
    add_text(header, tensor.name);
    add_number(header, uint32_t(1));
    add_number(header, tensor.n_elements);
    add_number(header, uint32_t(tensor.type));
    add_number(header, offset);
    end = offset + tensor.n_bytes;
    offset = aligned(end);
  }
  header.resize(aligned(header.size()), '\0');
  header_sum_ = checksum(header.data(), header.size());
  size_ = header.size() + end;

  fd_ = open_nameless(folder_of(path_));
  if (fd_ < 0 && !take_temporary_name([&](const char* name) {
        fd_ = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        return fd_ >= 0;
      }))
    fail("made");
  append(header.data(), header.size());
}

void ContainerWriter::write(const void* data) {
  const Declared& tensor = tensors_[sums_.size()];
  sums_.push_back(checksum(data, tensor.n_bytes));
  append(data, tensor.n_bytes);
  const char padding[kAlignment] = {};
  if (sums_.size() < tensors_.size()) append(padding, aligned(tensor.n_bytes) - tensor.n_bytes);
}

void ContainerWriter::finish() {
  std::vector<uint64_t> sums = sums_;
  sums.push_back(header_sum_);
  if (sums.size() != tensors_.size())
    throw Error(ErrorCode::INTERNAL, format("%zu of %zu tensors were written", sums_.size(), tensors_.size() - 1));
  write(sums.data());
  if (fsync(fd_) != 0) fail("written");
  // Only a rename replaces a file, so a nameless one gets a temporary name first.
  if (temporary_.empty() && !take_temporary_name([&](const char* name) {
        return linkat(AT_FDCWD, descriptor_path(fd_).c_str(), AT_FDCWD, name, AT_SYMLINK_FOLLOW) == 0;
      }))
    fail("named");
  if (rename(temporary_.c_str(), path_.c_str()) != 0) fail("renamed");
  close(std::exchange(fd_, -1));
  // The new name lasts once its folder is on the disk; some file systems cannot say so.
  const int folder = open(folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;
  fsync(folder);
  close(folder);
}

void ContainerWriter::append(const void* data, uint64_t n) {
  const FileSizeSignal held;
  for (uint64_t at = 0; at < n;) {
    const ssize_t written =
        ::write(fd_, static_cast<const char*>(data) + at, size_t(std::min<uint64_t>(n - at, uint64_t(1) << 30)));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("written");
    at += uint64_t(written);
  }
}

void ContainerWriter::fail(const char* step) const {
  const int error = errno;
  const bool full = error == ENOSPC || error == EFBIG || error == EDQUOT;
  throw Error(ErrorCode::MODEL_FILE,
              path_ + ": cannot be " + step + ": " + std::system_category().message(error) +
                  (full ? format("; %.1f MB are needed", double(size_) / 1e6) : "") + "; nothing was changed");
}

}  // namespace rkllm
