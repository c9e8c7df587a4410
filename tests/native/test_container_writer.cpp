// SPDX-License-Identifier: Apache-2.0
// What the writer writes is what the reader reads, checksums included; a file that cannot be written leaves everything
// as it was.
#include "container_writer.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "checksum.h"
#include "container.h"
#include "scratch_folder.h"

namespace {

using namespace rkllm;

const std::vector<float> kFloats = {1.0f, -2.5f, 0.0f};

void write_small(const std::string& path, const std::string& text = "words") {
  ContainerWriter writer(path);
  writer.put("a.text", text);
  writer.put("a.number", uint32_t(7));
  writer.put("a.double", 0.1);
  writer.put("a.numbers", std::vector<int64_t>{1, -2, INT64_MIN});
  writer.put("a.none", std::vector<int64_t>());
  writer.put("a.texts", std::vector<std::string>{"", "x"});
  writer.declare("bytes", TensorType::I8, 65);
  writer.declare("floats", TensorType::F32, kFloats.size());
  writer.begin();
  writer.write(std::string(65, 'b').data());
  writer.write(kFloats.data());
  writer.finish();
}

void everything_written_is_read_back() {
  const ScratchFolder folder;
  write_small(folder / "small");
  const auto file = Container::open(folder / "small");
  CHECK(file->get_string("a.text") == "words" && file->get_int("a.number") == 7 && file->get_float("a.double") == 0.1);
  CHECK((file->get_ints("a.numbers") == std::vector<int64_t>{1, -2, INT64_MIN}));
  CHECK(file->get_ints("a.none").empty() && file->get_strings("a.texts").size() == 2);
  CHECK(file->get_int("general.alignment") == 64 && file->header_size() % 64 == 0);
  const auto& tensors = file->tensors();
  CHECK(tensors.size() == 3 && tensors[0].name == "bytes" && tensors[1].name == "floats");
  CHECK(tensors[0].n_bytes == 65 && tensors[1].offset == 128 && tensors[2].offset == 192);
  CHECK(!memcmp(tensors[1].data, kFloats.data(), 12));
  CHECK(tensors[2].name == "checksums" && tensors[2].n_bytes == 24);
  uint64_t sums[3];
  memcpy(sums, tensors[2].data, sizeof sums);
  CHECK(sums[0] == checksum(tensors[0].data, 65) && sums[1] == checksum(tensors[1].data, 12));
  CHECK(sums[2] == checksum(file->bytes(), file->header_size()));
  CHECK(folder.names() == std::vector<std::string>{"small"});
}

void a_file_that_is_there_is_replaced_and_its_readers_keep_the_old_one() {
  const ScratchFolder folder;
  write_small(folder / "small", "old");
  const auto old = Container::open(folder / "small");
  write_small(folder / "small", "new");
  CHECK(old->get_string("a.text") == "old" && Container::open(folder / "small")->get_string("a.text") == "new");
}

void a_file_that_was_not_finished_leaves_nothing() {
  const ScratchFolder folder;
  {
    ContainerWriter writer(folder / "half");
    writer.declare("bytes", TensorType::I8, 1);
    writer.begin();
    CHECK(folder.names().empty() || folder.names()[0] != "half");
    CHECK(check::sentence_of([&] { writer.finish(); }) == "0 of 1 tensors were written");
  }
  CHECK(folder.names().empty());
}

void a_killed_writer_leaves_nothing_where_files_need_no_name() {
  const ScratchFolder folder;
  const int nameless = open(folder.path().c_str(), O_WRONLY | O_TMPFILE, 0666);
  if (nameless < 0) return;  // this file system has no such files
  close(nameless);
  write_small(folder / "small", "old");
  const pid_t child = fork();
  if (child == 0) {
    ContainerWriter writer(folder / "small");
    writer.declare("bytes", TensorType::I8, 1);
    writer.begin();
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  CHECK(folder.names() == std::vector<std::string>{"small"});
  CHECK(Container::open(folder / "small")->get_string("a.text") == "old");
}

// With the default action of SIGXFSZ, which is to end the process.
void a_full_disk_is_an_error_that_changes_nothing() {
  const ScratchFolder folder;
  write_small(folder / "small", "old");
  rlimit before = {}, small = {};
  CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0);
  for (rlim_t most : {0, 1, 300, 600}) {
    small = {most, before.rlim_max};
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    const std::string sentence = check::sentence_of([&] { write_small(folder / "small", "new"); });
    CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
    CHECK(
        check::contains(sentence, "small: cannot be written: File too large; 0.0 MB are needed; nothing was changed"));
    sigset_t pending;
    CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGXFSZ) == 0);
  }
  CHECK(folder.names() == std::vector<std::string>{"small"});
  CHECK(Container::open(folder / "small")->get_string("a.text") == "old");
}

void places_where_no_file_can_be_are_refused() {
  const ScratchFolder folder;
  const auto sentence = [](const std::string& path) { return check::sentence_of([&] { check_target(path); }); };
  CHECK(sentence(folder / "new").empty() && sentence("new").empty());
  CHECK(check::contains(sentence(folder.path()), "is a folder; name a file to write"));
  CHECK(check::contains(sentence(folder.path() + "/"), "is no name of a file"));
  CHECK(check::contains(sentence(""), "is no name of a file"));
  CHECK(check::contains(sentence(folder / "none/new"), "/none/ does not exist; make it first"));
  CHECK(check::contains(sentence("/dev/null"), "/dev/null: is not a regular file and cannot be replaced"));
  CHECK(geteuid() == 0 || check::contains(sentence("/new"), "the folder / may not be written to"));
}

void a_link_stays_and_its_file_is_replaced() {
  const ScratchFolder folder, other;
  write_small(other / "file", "before");
  CHECK(symlink((other / "file").c_str(), (folder / "link").c_str()) == 0);
  write_small(folder / "link");
  struct stat info;
  CHECK(lstat((folder / "link").c_str(), &info) == 0 && S_ISLNK(info.st_mode));
  CHECK(Container::open(other / "file")->get_string("a.text") == "words");
  CHECK(folder.names().size() == 1 && other.names().size() == 1);
}

void a_link_to_a_file_that_is_not_there_yet_makes_it() {
  const ScratchFolder folder;
  CHECK(symlink("second", (folder / "first").c_str()) == 0);
  CHECK(symlink("file", (folder / "second").c_str()) == 0);
  write_small(folder / "first");
  struct stat info;
  for (const char* link : {"first", "second"})
    CHECK(lstat((folder / link).c_str(), &info) == 0 && S_ISLNK(info.st_mode));
  CHECK(lstat((folder / "file").c_str(), &info) == 0 && S_ISREG(info.st_mode));
  CHECK(symlink("round", (folder / "round").c_str()) == 0);
  write_small(folder / "round");  // nothing can be behind it
  CHECK(Container::open(folder / "round")->get_string("a.text") == "words");
}

void the_longest_file_name_can_be_written() {
  const ScratchFolder folder;
  write_small(folder / std::string(255, 'n'));
  CHECK(folder.names().size() == 1 && folder.names()[0].size() == 255);
}

}  // namespace

int main() {
  everything_written_is_read_back();
  a_file_that_is_there_is_replaced_and_its_readers_keep_the_old_one();
  a_file_that_was_not_finished_leaves_nothing();
  a_killed_writer_leaves_nothing_where_files_need_no_name();
  a_full_disk_is_an_error_that_changes_nothing();
  places_where_no_file_can_be_are_refused();
  a_link_stays_and_its_file_is_replaced();
  a_link_to_a_file_that_is_not_there_yet_makes_it();
  the_longest_file_name_can_be_written();
  return check::result();
}
