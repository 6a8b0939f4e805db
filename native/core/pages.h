#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace lowbit {

// A block of memory that starts on a cache line, or on a page of 2 MiB where it is that large: the system is asked for
// huge pages then, which are worth a third of the bandwidth with which one processor can read. Zeros at first.
class Pages {
 public:
  Pages() = default;
  // Throws std::bad_alloc.
  explicit Pages(std::size_t bytes);
  // A file, read-only, as it is on disk from `offset` on. Throws std::runtime_error with what the system says.
  static Pages map_file(const std::string& path);
  ~Pages();
  Pages(Pages&& other) noexcept;
  Pages& operator=(Pages&& other) noexcept;
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  std::uint8_t* data() const { return data_; }
  std::size_t size() const { return size_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  // Makes room for `bytes`, what was there may be lost. For scratch memory that is used again and again.
  void reserve(std::size_t bytes);

 private:
  std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
  void* block_ = nullptr;  // what the system gave, and how much
  std::size_t block_size_ = 0;
};

// Scratch memory of the calling thread, kept for the next call: fresh pages cost more than what is computed in them.
// `slot` tells what it is for; two users of one slot must not overlap.
enum class Scratch : std::uint8_t { kActivations, kGateActivations, kRow, kPanel, kResult, kPacked, kCount };
std::uint8_t* scratch(Scratch slot, std::size_t bytes);

}  // namespace lowbit
