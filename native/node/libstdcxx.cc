// libstdc++ 11 moved this check of allocation sizes into the shared library; a definition of our own keeps the addon
// loadable with older ones (scripts/check-prebuild.cjs holds it to that).

#include <new>

#if defined(__GLIBCXX__)
namespace std {
[[noreturn]] __attribute__((visibility("hidden"))) void __throw_bad_array_new_length();  // NOLINT: libstdc++'s name
void __throw_bad_array_new_length() { throw bad_array_new_length(); }
}  // namespace std
#endif
