package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestParseFioReadsTheSideThatWorked(t *testing.T) {
	report := []byte(`fio: a warning
{"jobs": [{"error": 0,
	"read":  {"iops": 10.5, "bw_bytes": 43008, "clat_ns": {"percentile": {"50.000000": 1000, "99.000000": 9000}}},
	"write": {"iops": 20.5, "bw_bytes": 83968, "clat_ns": {"percentile": {"50.000000": 2000, "99.000000": 8000}}}}]}`)
	tests := []struct {
		name string
		read bool
		want measurement
	}{
		{"read", true, measurement{10.5, 43008, time.Microsecond, 9 * time.Microsecond}},
		{"write", false, measurement{20.5, 83968, 2 * time.Microsecond, 8 * time.Microsecond}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseFio(report, tt.read)
			if err != nil || got != tt.want {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

func TestParseFioRefusesWhatIsNoResult(t *testing.T) {
	for _, report := range []string{
		``, `nothing`, `{`, `{"jobs": []}`, `{"jobs": [{"error": 5, "write": {"iops": 1}}]}`, `{"jobs": [{"error": 0}]}`,
	} {
		if _, err := parseFio([]byte(report), false); err == nil {
			t.Errorf("%q was taken for a result", report)
		}
	}
}

func TestRatiosPairTheRounds(t *testing.T) {
	var r results
	for _, iops := range []struct{ base, duet float64 }{{100, 50}, {200, 160}, {100, 70}} {
		r.add("randwrite-4k-1", baseline, measurement{IOPS: iops.base})
		r.add("randwrite-4k-1", "duet", measurement{IOPS: iops.duet})
	}
	var output bytes.Buffer
	r.print(&output, &config{rounds: 3, seconds: 1, sizeBytes: 1 << 30, peers: []string{baseline, "duet"}, rows: allRows[:1]})
	for _, want := range []string{"0.70 (0.50-0.80)", "0.50-0.63", "reached"} {
		if !strings.Contains(output.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, &output)
		}
	}
}

func TestMedian(t *testing.T) {
	tests := []struct {
		figures []float64
		want    float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 9}, 3}}
	for _, tt := range tests {
		if got := medianOf(tt.figures); got != tt.want {
			t.Errorf("medianOf(%v) = %v, want %v", tt.figures, got, tt.want)
		}
	}
}

func TestParseConfigRefuses(t *testing.T) {
	for _, arguments := range [][]string{
		{"--peers", "nobody"}, {"--rows", "randwrite-4k-2"}, {"--rounds", "0"}, {"--size", "1"}, {"--unknown"},
	} {
		if _, err := parseConfig(arguments); err == nil {
			t.Errorf("%v was accepted", arguments)
		}
	}
}
