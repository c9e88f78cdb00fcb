package logs

import (
	"bytes"
	"io"
)

// tailOffset returns where the last want entries of a file begin, and how many
// there are: want, or all when the file has fewer. A last line without newline
// comes on top. With a stream only its entries count, and the whole file is
// read; without, only as much of its end as needed, and every line counts.
func tailOffset(f io.ReaderAt, size, want int64, stream string) (offset, found int64, err error) {
	if stream != "" {
		whole := func() *scanner { return &scanner{r: io.NewSectionReader(f, 0, size)} }
		found, _ = countEntries(whole(), stream, -1)
		if found <= want {
			return 0, found, nil
		}
		_, offset = countEntries(whole(), stream, found-want)
		return offset, want, nil
	}
	// The newline before the first wanted line is the one to find, so one more
	// newline than lines.
	buf := make([]byte, readSize)
	for end := size; end > 0; {
		n := min(end, int64(len(buf)))
		end -= n
		if _, err := f.ReadAt(buf[:n], end); err != nil && err != io.EOF {
			return 0, 0, err
		}
		block := buf[:n]
		in := int64(bytes.Count(block, []byte("\n")))
		if found+in <= want {
			found += in
			continue
		}
		for ; found <= want; found++ {
			block = block[:bytes.LastIndexByte(block, '\n')]
		}
		return end + int64(len(block)) + 1, want, nil
	}
	return 0, found, nil
}

// countEntries counts the entries of a stream, all lines when it is empty, up to
// limit (negative: to the end), and returns the offset behind the last one
// counted. It ends early where the file cannot be read any further.
func countEntries(s *scanner, stream string, limit int64) (found, offset int64) {
	for limit < 0 || found < limit {
		line, err := s.next()
		if err != nil {
			break
		}
		if stream != "" {
			if e, ok := parseEntry(line); !ok || string(e.stream) != stream {
				continue
			}
		}
		found++
		offset = s.consumed()
	}
	return found, offset
}
