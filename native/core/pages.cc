#include "core/pages.h"

#include <cerrno>
#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>

#if defined(_WIN32)
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace lowbit {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t rounded_up(std::size_t bytes, std::size_t unit) {
  if (bytes > static_cast<std::size_t>(-1) - unit) throw std::bad_alloc();
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace

#if defined(_WIN32)

Pages::Pages(std::size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  block_size_ = rounded_up(bytes, 4096);
  block_ = VirtualAlloc(nullptr, block_size_, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
  if (block_ == nullptr) throw std::bad_alloc();
  data_ = static_cast<std::uint8_t*>(block_);
}

Pages Pages::map_file(const std::string& path) {
  const int length = MultiByteToWideChar(CP_UTF8, 0, path.c_str(), -1, nullptr, 0);
  std::wstring wide(static_cast<std::size_t>(length), L'\0');
  MultiByteToWideChar(CP_UTF8, 0, path.c_str(), -1, wide.data(), length);
  const HANDLE file = CreateFileW(wide.c_str(), GENERIC_READ, FILE_SHARE_READ, nullptr, OPEN_EXISTING, 0, nullptr);
  if (file == INVALID_HANDLE_VALUE) throw std::runtime_error("error " + std::to_string(GetLastError()));
  LARGE_INTEGER size{};
  GetFileSizeEx(file, &size);
  const HANDLE mapping = CreateFileMappingW(file, nullptr, PAGE_READONLY, 0, 0, nullptr);
  void* const view = mapping == nullptr ? nullptr : MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0);
  const DWORD error = GetLastError();
  if (mapping != nullptr) CloseHandle(mapping);
  CloseHandle(file);
  if (view == nullptr) throw std::runtime_error("error " + std::to_string(error));
  Pages pages;
  pages.block_ = view;
  pages.data_ = static_cast<std::uint8_t*>(view);
  pages.size_ = static_cast<std::size_t>(size.QuadPart);
  return pages;
}

Pages::~Pages() {
  if (block_ == nullptr) return;
  if (block_size_ != 0) {
    VirtualFree(block_, 0, MEM_RELEASE);
  } else {
    UnmapViewOfFile(block_);
  }
}

#else

Pages::Pages(std::size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  const bool huge = bytes >= kHugePage;
  // Twice a huge page more than needed leaves room to begin and to end on the boundary of one.
  block_size_ = huge ? rounded_up(bytes, kHugePage) + kHugePage : rounded_up(bytes, 4096);
  block_ = mmap(nullptr, block_size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block_ == MAP_FAILED) {
    block_ = nullptr;
    throw std::bad_alloc();
  }
  data_ = static_cast<std::uint8_t*>(block_);
  if (huge) {
    const auto address = reinterpret_cast<std::uintptr_t>(block_);
    data_ += (kHugePage - address % kHugePage) % kHugePage;
#if defined(MADV_HUGEPAGE)
    madvise(data_, rounded_up(bytes, kHugePage), MADV_HUGEPAGE);
#endif
  }
}

Pages Pages::map_file(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw std::runtime_error(std::strerror(errno));
  // Not fstat(): its symbol ties the addon to a newer C library than Node needs.
  const off_t end = lseek(file, 0, SEEK_END);
  if (end <= 0) {
    const int error = errno;
    close(file);
    throw std::runtime_error(end == 0 ? "the file is empty" : std::strerror(error));
  }
  const auto size = static_cast<std::size_t>(end);
  void* const view = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
  const int error = errno;
  close(file);
  if (view == MAP_FAILED) throw std::runtime_error(std::strerror(error));
  Pages pages;
  pages.block_ = view;
  pages.block_size_ = pages.size_ = size;
  pages.data_ = static_cast<std::uint8_t*>(view);
  return pages;
}

Pages::~Pages() {
  if (block_ != nullptr) munmap(block_, block_size_);
}

#endif

Pages::Pages(Pages&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      block_(std::exchange(other.block_, nullptr)),
      block_size_(std::exchange(other.block_size_, 0)) {}

Pages& Pages::operator=(Pages&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(block_, other.block_);
  std::swap(block_size_, other.block_size_);
  return *this;
}

void Pages::reserve(std::size_t bytes) {
  if (bytes > size_) *this = Pages(bytes);
}

std::uint8_t* scratch(Scratch slot, std::size_t bytes) {
  thread_local Pages blocks[static_cast<std::size_t>(Scratch::kCount)];
  Pages& block = blocks[static_cast<std::size_t>(slot)];
  block.reserve(bytes);
  return block.data();
}

}  // namespace lowbit
