#pragma once

// Times that another program took on this device, from a file of tab-separated values: what, M, N, K, microseconds.

#include <cstdio>
#include <fstream>
#include <map>
#include <string>
#include <tuple>

namespace lowbit {

class Peers {
 public:
  // False: there is no such file.
  bool load(const char* path) {
    std::ifstream file(path);
    std::string what;
    std::size_t m = 0, n = 0, k = 0;
    double microseconds = 0.0;
    while (std::getline(file, what, '\t') && file >> m >> n >> k >> microseconds) {
      seconds_[{what, m, n, k}] = microseconds * 1e-6;
      file.ignore(1);  // the end of the line
    }
    return !seconds_.empty();
  }

  // 0: not known.
  double seconds(const std::string& what, std::size_t m, std::size_t n = 1, std::size_t k = 1) const {
    const auto found = seconds_.find({what, m, n, k});
    return found == seconds_.end() ? 0.0 : found->second;
  }

  // How many times as long the peer took, for a cell of a table.
  std::string times(const std::string& what, std::size_t m, std::size_t n, std::size_t k, double seconds) const {
    const double other = this->seconds(what, m, n, k);
    if (other == 0.0) return "";
    char cell[32];
    std::snprintf(cell, sizeof cell, "%.2f×", other / seconds);
    return cell;
  }

 private:
  std::map<std::tuple<std::string, std::size_t, std::size_t, std::size_t>, double> seconds_;
};

}  // namespace lowbit
