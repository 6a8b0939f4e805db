// readStrided(fd, position, stride, rows, into, whole, done): reads pieces of a file that lie apart, on one of libuv's
// threads, as Node's own reads do. Each of those takes ten times as long as the system call that it makes.

#if !defined(_WIN32)
#define _FILE_OFFSET_BITS 64  // NOLINT(bugprone-reserved-identifier): what the C library asks for
#include <fcntl.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "node/arguments.h"
#include "node/calls.h"

namespace lowbit::node {

#if defined(_WIN32)

// The numbers of open files are those of Node's C runtime, which this library does not share.
void register_file_calls(Napi::Env, Napi::Object) {}

#else

namespace {

static_assert(sizeof(off_t) == 8, "files may be larger than 2 GB");

constexpr int kEnded = -1;

// Copying so many bytes that nobody wants takes less time than another system call.
constexpr std::size_t kCheapGap = 4096, kChunkBytes = std::size_t{256} << 10;

class StridedRead : public Napi::AsyncWorker {
 public:
  StridedRead(const Napi::Function& done, const Napi::Value& array, int fd, off_t position, std::size_t stride,
              std::size_t rows, const Bytes& into, bool whole)
      : Napi::AsyncWorker(done, "lowbit.readStrided"),
        fd_(fd),
        position_(position),
        stride_(stride),
        rows_(rows),
        width_(into.size / rows),
        into_(into.data),
        whole_(whole) {
    Receiver().Set("into", array);  // kept alive until the read has ended
  }

 protected:
  void Execute() override {
#if defined(POSIX_FADV_WILLNEED)
    // The first strip of a matrix is not the last: the disk reads better in one go what comes in pieces.
    if (whole_) posix_fadvise(fd_, position_, static_cast<off_t>(stride_ * rows_), POSIX_FADV_WILLNEED);
#endif
    if (stride_ >= width_ && stride_ - width_ <= kCheapGap && 2 * stride_ <= kChunkBytes) {
      read_through();
      return;
    }
    for (std::size_t row = 0; row < rows_ && problem_ == 0; row++) {
      problem_ = read_fully(position_of(row), into_ + row * width_, width_);
    }
  }
  void OnOK() override {
    const Napi::HandleScope scope(Env());
    Callback().Call({Napi::Number::New(Env(), problem_)});
  }

 private:
  off_t position_of(std::size_t row) const { return position_ + static_cast<off_t>(row * stride_); }

  // Some rows at a time, with what lies between the pieces.
  void read_through() {
    const std::size_t together = kChunkBytes / stride_;
    std::vector<std::uint8_t> chunk(std::min(together, rows_) * stride_);
    for (std::size_t first = 0; first < rows_ && problem_ == 0; first += together) {
      const std::size_t count = std::min(together, rows_ - first);
      problem_ = read_fully(position_of(first), chunk.data(), (count - 1) * stride_ + width_);
      for (std::size_t i = 0; i < count && problem_ == 0; i++) {
        std::memcpy(into_ + (first + i) * width_, chunk.data() + i * stride_, width_);
      }
    }
  }

  // 0, an errno, or kEnded.
  int read_fully(off_t position, std::uint8_t* to, std::size_t size) const {
    for (std::size_t done = 0; done < size;) {
      const ssize_t count = pread(fd_, to + done, size - done, position + static_cast<off_t>(done));
      if (count == 0) return kEnded;
      if (count < 0 && errno != EINTR) return errno;
      if (count > 0) done += static_cast<std::size_t>(count);
    }
    return 0;
  }

  int fd_;
  off_t position_;
  std::size_t stride_, rows_, width_;
  std::uint8_t* into_;
  [[maybe_unused]] bool whole_;
  int problem_ = 0;
};

Napi::Value read_strided(const Napi::CallbackInfo& info) {
  const Arguments a(info);
  constexpr std::int64_t kMost = std::int64_t{1} << 53;
  const auto fd = static_cast<int>(a.integer(0, "fd", 0, INT32_MAX));
  const std::int64_t position = a.integer(1, "position", 0, kMost);
  const std::size_t stride = a.size(2, "stride"), rows = a.size(3, "rows");
  const Bytes into = a.array(4, "into", napi_uint8_array);
  const bool whole = a.flag(5, "whole");
  const Napi::Function done = a.function(6, "done");
  a.check(rows != 0 && into.size % rows == 0, "Expected room for whole pieces.");
  a.check(checked_product(a, stride, rows) <= static_cast<std::size_t>(kMost), "Expected pieces of a file.");
  (new StridedRead(done, info[4], fd, static_cast<off_t>(position), stride, rows, into, whole))->Queue();
  return info.Env().Undefined();
}

}  // namespace

void register_file_calls(Napi::Env env, Napi::Object exports) {
  exports.Set("readStrided", Napi::Function::New<read_strided>(env, "readStrided"));
}

#endif

}  // namespace lowbit::node
