import sys, uuid, shutil, tempfile, time
sys.path.insert(0,'/work/main')
from pathlib import Path
from deer_reid_pipeline_tests.conftest import *
from deer_reid_pipeline_tests.steps.test_monitoring import *
from deer_reid_pipeline_tests.steps.monitored import *
from deer_reid_pipeline_tests.steps.test_monitoring import plant
from time import perf_counter as perf
def test_view(site):
    herd=ordinary_herd(site); plant(herd); herd.crops()
    # real crops for the eye
    crops=list(Path('/tmp/nyh/home/crops').rglob('*.jpg'))[:200]
    if crops:
        with site.database.session() as s:
            for i,row in enumerate(s.query(DetectionCrop)):
                f=f"{i}.jpg"; shutil.copyfile(crops[i%len(crops)], site.settings.crops_dir/f); row.file=f
    report_day(site,DAY); 
    review(site,{},'same'); r=report_day(site,DAY); print(r.sentence)
    f=herd.meets("N07",NOON+timedelta(minutes=8),"south"); report_day(site,DAY)
    shutil.copytree(site.settings.home/'reports','/tmp/mon/reports',dirs_exist_ok=True)
def test_scale(site):
    """100k decisions in the log, 300 on the day"""
    herd=ordinary_herd(site)
    with site.database.session() as s:
        s.execute(text("INSERT INTO images (id,filename,path) SELECT gen_random_uuid(),'x'||g,'x'||g FROM generate_series(1,100000) g"))
        s.execute(text("INSERT INTO encounters (id,drop_key,ordinal,event_key,deployment_id,started_at,sex) SELECT gen_random_uuid(),'herd-1',100000+g,'b'||g,'north', timestamptz '2025-01-01'+g*interval '5 minutes','unknown' FROM generate_series(1,100000) g"))
        s.execute(text("INSERT INTO detections (id,image_id,deer_id,bbox,confidence,source,encounter_id,classification_method,bbox_x,bbox_y,bbox_width,bbox_height) SELECT gen_random_uuid(), i.id, d.id, '{}',0.9,'manifest', e.id,'machine',.4,.3,.2,.3 FROM (SELECT id, row_number() over () r FROM images WHERE filename LIKE 'x%') i JOIN (SELECT id, row_number() over () r FROM encounters WHERE event_key LIKE 'b%') e USING (r) JOIN (SELECT id, row_number() over () -1 q FROM deer) d ON d.q = r % 14"))
        s.execute(text("INSERT INTO match_decisions (encounter_id,drop_key,detection_ids,decision,method,deer_id,individual,score,threshold,reason,matcher,decided_at) SELECT encounter_id,'herd-1',ARRAY[id],'matched','machine',deer_id,'x',0.9,0.9,'r','v3_ensemble', timestamptz '2026-03-14 10:00+00' - (random()*interval '300 days') FROM detections WHERE classification_method='machine' AND similarity_score IS NULL AND encounter_id IN (SELECT id FROM encounters WHERE event_key LIKE 'b%')"))
    t=perf(); r=report_day(site,DAY); print("SCALE",perf()-t,r.matched,len(r.flags), {x.rule for x in r.flags})
    import cProfile,pstats; pr=cProfile.Profile(); pr.enable(); t=perf(); r=report_day(site,DAY); pr.disable(); pstats.Stats(pr).sort_stats("cumtime").print_stats(28); print("AGAIN",perf()-t)
