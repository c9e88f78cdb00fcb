package metrics

import (
	"cmp"
	"slices"

	dto "github.com/prometheus/client_model/go"
)

// families collects the samples of one scrape. Unlike a registry it keeps
// nothing and checks nothing, which is what makes a scrape cheap: a test sees to
// it that names and labels are right.
type families struct{ all []*family }

func newFamilies() *families { return &families{} }

// family is one metric family. Labels may be shared between samples.
type family struct {
	dto.MetricFamily
	stamp int64 // milliseconds since 1970 for samples; 0: none
}

func (f *families) new(kind dto.MetricType, name, help string) *family {
	m := &family{}
	m.Name, m.Help, m.Type = &name, &help, &kind
	f.all = append(f.all, m)
	return m
}

func (f *families) gauge(name, help string) *family {
	return f.new(dto.MetricType_GAUGE, name, help)
}

func (f *families) counter(name, help string) *family {
	return f.new(dto.MetricType_COUNTER, name, help)
}

// add adds a sample with all the labels given.
func (m *family) add(value float64, sets ...[]*dto.LabelPair) {
	s := &dto.Metric{}
	if *m.Type == dto.MetricType_COUNTER {
		s.Counter = &dto.Counter{Value: &value}
	} else {
		s.Gauge = &dto.Gauge{Value: &value}
	}
	m.sample(s, sets)
}

func (m *family) sample(s *dto.Metric, sets [][]*dto.LabelPair) {
	if len(sets) == 1 {
		s.Label = sets[0]
	} else {
		s.Label = slices.Concat(sets...)
	}
	if m.stamp != 0 {
		s.TimestampMs = &m.stamp
	}
	m.Metric = append(m.Metric, s)
}

// addIf adds a 1 or a 0.
func (m *family) addIf(yes bool, sets ...[]*dto.LabelPair) {
	value := 0.0
	if yes {
		value = 1
	}
	m.add(value, sets...)
}

// sorted returns the families that have samples, by name.
func (f *families) sorted() []*dto.MetricFamily {
	found := make([]*dto.MetricFamily, 0, len(f.all))
	for _, m := range f.all {
		if len(m.Metric) > 0 {
			found = append(found, &m.MetricFamily)
		}
	}
	slices.SortFunc(found, func(a, b *dto.MetricFamily) int { return cmp.Compare(*a.Name, *b.Name) })
	return found
}

// labels makes pairs of name, value, name, value, ….
func labels(namesAndValues ...string) []*dto.LabelPair {
	pairs := make([]*dto.LabelPair, 0, len(namesAndValues)/2)
	for i := 0; i+1 < len(namesAndValues); i += 2 {
		pairs = append(pairs, &dto.LabelPair{Name: &namesAndValues[i], Value: &namesAndValues[i+1]})
	}
	return pairs
}
